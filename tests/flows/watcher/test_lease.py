"""The Lease of a replica that ends is free at once, on a real API server."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from kubernetes.aio import client, config

from flows.watcher.lease import Lease
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object
from tests.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


class Interrupted(KubeApi):
    """A connection on which something happens right after an object was read."""

    after_get: Callable[[], Awaitable[None]] | None = None

    async def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        found = await super().get(kind, namespace, name)
        then, self.after_get = self.after_get, None
        if then:
            await then()
        return found


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Interrupted]:
    settings = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(control_plane.kubeconfig), client_configuration=settings
    )
    made = Interrupted(client.ApiClient(settings))
    yield made
    await made.close()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"lease-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def replica(api: Interrupted, namespace: str) -> Callable[[str], Lease]:
    return lambda identity: Lease(api, namespace=namespace, identity=identity, lease_s=3600)


async def holder(api: KubeApi, namespace: str) -> str:
    lease = await api.get("Lease", namespace, "kaitoflow-watcher")
    assert lease
    return str(lease["spec"].get("holderIdentity", ""))


async def test_another_replica_leads_at_once(
    replica: Callable[[str], Lease], api: KubeApi, namespace: str
) -> None:
    await replica("first").acquire()
    await replica("first").give_up()
    await replica("second").acquire()
    assert await holder(api, namespace) == "second"


async def test_a_renewal_that_arrives_late_is_given_up_too(
    replica: Callable[[str], Lease], api: Interrupted, namespace: str
) -> None:
    await replica("first").acquire()
    api.after_get = replica("first").acquire
    await replica("first").give_up()
    assert await holder(api, namespace) == ""


async def test_what_another_replica_holds_stays_with_it(
    replica: Callable[[str], Lease], api: KubeApi, namespace: str
) -> None:
    await replica("first").acquire()
    await replica("second").give_up()
    assert await holder(api, namespace) == "first"
