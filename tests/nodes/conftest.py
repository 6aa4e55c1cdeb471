"""An API server that knows NodeClaims, and Workspaces that ask for nodes to be made."""

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from kubernetes.aio import client, config

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.claims.node_claim import CLAIM
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY
from tests.builders import tuning_manifest
from tests.cluster.control_plane import ControlPlane
from tests.nodes.karpenter import claims_crd


@pytest.fixture(scope="session")
def claims_server(control_plane: ControlPlane) -> ControlPlane:
    """The API server with Karpenter's own NodeClaim definition."""
    control_plane.define("nodeclaims.karpenter.sh", claims_crd())
    return control_plane


@pytest.fixture
async def api(claims_server: ControlPlane) -> AsyncIterator[KubeApi]:
    """A connection to it; no claim of ours is left afterwards."""
    settings = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(claims_server.kubeconfig), client_configuration=settings
    )
    api = KubeApi(client.ApiClient(settings))
    yield api
    for claim in await api.find(CLAIM, labels=MANAGED_BY):
        name = claim["metadata"]["name"]
        await api.merge(CLAIM, None, name, {"metadata": {"finalizers": None}})
        await api.delete(CLAIM, None, name)
    for node in await api.find("Node", labels=MANAGED_BY):
        await api.delete("Node", None, node["metadata"]["name"])
    await api.close()


@pytest.fixture
def wanting() -> Callable[..., Workspace]:
    """Builds a Workspace with a uid, whose nodes have a label of the test's own."""
    mark = f"test-{secrets.token_hex(4)}"

    def build(
        *instance_types: str, name: str = "tuned", uid: str = "", **annotations: str
    ) -> Workspace:
        manifest: dict[str, Any] = tuning_manifest(name)
        manifest["resource"] = {
            "instanceType": instance_types[0],
            "labelSelector": {"matchLabels": {"apps": mark}},
        }
        others = {"kaitoflow.io/instance-types": ",".join(instance_types[1:])}
        given = {f"kaitoflow.io/{k.replace('_', '-')}": v for k, v in annotations.items()}
        manifest["metadata"] |= {
            "namespace": "team",
            "uid": uid or secrets.token_hex(8),
            "annotations": others | given,
        }
        return parse_workspace(manifest, source="test")

    return build
