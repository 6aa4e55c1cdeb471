"""One replica leads, for as long as it says so; judged by what each sees, not by others' clocks."""

import asyncio
import itertools
from typing import Any, cast

import pytest

from flows.watcher.lease import Lease
from tasks.contract.errors import KubernetesUnavailable, LeadershipLost
from tasks.platform.kube_api import KubeApi

Object = dict[str, Any]


class ApiServer:
    """Keeps one Lease, and refuses a change of a version that is no more."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.is_away, self.asked = False, 0
        self._versions = itertools.count(1)

    @property
    def holder(self) -> str:
        return self.lease["spec"]["holderIdentity"] if self.lease else ""

    async def get(self, *_about: str) -> Object | None:
        self.asked += 1
        if self.is_away:
            raise KubernetesUnavailable("asked", "no answer", "wait")
        return self.lease

    async def create(self, _kind: str, _namespace: str, body: Object) -> Object | None:
        return None if self.lease else self._keep(body)

    async def merge(self, *about: Any) -> Object | None:
        body: Object = about[-1]
        assert self.lease
        is_newest = body["metadata"]["resourceVersion"] == self.lease["metadata"]["resourceVersion"]
        return self._keep(body) if is_newest else None

    def _keep(self, body: Object) -> Object:
        metadata = body["metadata"] | {"resourceVersion": str(next(self._versions))}
        self.lease = body | {"metadata": metadata}
        return self.lease


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


def replica(server: ApiServer, identity: str, *, lease_s: float = 0.05) -> Lease:
    """A replica; real ones have leases of whole seconds."""
    api = cast("KubeApi", server)
    return Lease(api, namespace="team", identity=identity, lease_s=cast("int", lease_s))


async def leads(lease: Lease, *, within_s: float) -> bool:
    try:
        await asyncio.wait_for(lease.acquire(), within_s)
    except TimeoutError:
        return False
    return True


async def test_the_first_leads_and_the_second_waits(server: ApiServer) -> None:
    assert await leads(replica(server, "a", lease_s=60), within_s=1)
    assert not await leads(replica(server, "b", lease_s=60), within_s=0.05)
    assert server.holder == "a"


async def test_one_that_says_nothing_for_its_whole_lease_is_followed(server: ApiServer) -> None:
    await replica(server, "a").acquire()
    assert await leads(replica(server, "b"), within_s=5)
    assert server.holder == "b"


async def test_one_that_renews_its_lease_is_not_followed(server: ApiServer) -> None:
    first, second = replica(server, "a", lease_s=1), replica(server, "b", lease_s=1)
    for _ in range(12):
        await first.acquire()
        assert not await leads(second, within_s=0.1)


async def test_how_long_a_lease_is_says_its_holder(server: ApiServer) -> None:
    await replica(server, "a", lease_s=60).acquire()
    assert not await leads(replica(server, "b", lease_s=0.01), within_s=0.1)


async def test_a_lease_that_was_given_up_is_free_at_once(server: ApiServer) -> None:
    first = replica(server, "a", lease_s=60)
    await first.acquire()
    await first.give_up()
    assert server.holder == ""
    assert await leads(replica(server, "b", lease_s=60), within_s=1)


async def test_only_ones_own_lease_is_given_up(server: ApiServer) -> None:
    await replica(server, "a").acquire()
    await replica(server, "b").give_up()
    assert server.holder == "a"


async def test_one_whose_lease_another_has_leads_no_more(server: ApiServer) -> None:
    first = replica(server, "a")
    await first.acquire()
    assert server.lease
    server.lease["spec"] |= {"holderIdentity": "b", "leaseDurationSeconds": 60}
    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(first.keep(), 5)
    assert server.holder == "b"


async def test_one_that_cannot_renew_ends_before_another_may_lead(server: ApiServer) -> None:
    first = replica(server, "a", lease_s=0.3)
    await first.acquire()
    server.is_away, server.asked = True, 0
    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(first.keep(), 5)
    assert 1 <= server.asked < 5  # it tries each fifth of its lease
