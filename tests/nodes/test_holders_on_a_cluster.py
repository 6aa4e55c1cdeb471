"""Who holds GPUs is asked of an API server: pods that have a node and have not ended, by pages."""

from typing import Any

import pytest

from tasks.nodes.current import holders_on
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.settings import Settings

pytestmark = pytest.mark.cluster


class Connected(KubernetesPlatform):
    """Speaks by a connection that is there."""

    def __init__(self, connection: KubeApi) -> None:
        super().__init__(Settings())
        self._given = connection

    async def api(self) -> KubeApi:
        return self._given


async def make(api: KubeApi, namespace: str, name: str, *, node: str = "", phase: str = "") -> None:
    gpu = {"limits": {"nvidia.com/gpu": "1"}}
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": "none", "resources": gpu}]}
    spec |= {"nodeName": node} if node else {}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    await api.create("Pod", namespace, manifest)
    if phase:
        patch = {"status": {"phase": phase}}
        await api.merge("Pod", namespace, name, patch, subresource="status")


async def test_pods_with_a_node_that_have_not_ended_hold_gpus(api: KubeApi, namespace: str) -> None:
    await make(api, namespace, "a", node="gpu-1")
    await make(api, namespace, "b", node="gpu-2", phase="Running")
    await make(api, namespace, "c", node="gpu-1", phase="Succeeded")
    await make(api, namespace, "d", node="gpu-1", phase="Failed")
    await make(api, namespace, "e")
    found = [each for each in await holders_on(Connected(api)) if each.namespace == namespace]
    assert [(each.pod, each.node) for each in found] == [("a", "gpu-1"), ("b", "gpu-2")]


@pytest.mark.parametrize("page", [1, 2, 3, 500])
async def test_pods_are_listed_by_pages(api: KubeApi, namespace: str, page: int) -> None:
    for name in "abc":
        await make(api, namespace, name, node=f"of-{namespace}")
    fields = f"spec.nodeName=of-{namespace}"
    pages = [found async for found in api.find_in_pages("Pod", fields=fields, page=page)]
    assert [each["metadata"]["name"] for found in pages for each in found] == ["a", "b", "c"]
    assert max(map(len, pages)) <= page
