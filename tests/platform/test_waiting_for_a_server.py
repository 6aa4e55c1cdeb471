"""A server is waited for until a pod of it is ready on a node that the cluster has."""

import asyncio
from typing import Any, cast

from tasks.contract.artifacts import Endpoint
from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi
from tasks.platform.server import wait_until_ready

Object = dict[str, Any]
KEY = ("team", "web", "1", "inference")


def pod(node: str, **status: Any) -> Object:
    spec = {"nodeName": node, "containers": [{"name": "serve", "image": "i"}]}
    return {"metadata": {"name": "web-0", "namespace": "team"}, "spec": spec, "status": status}


READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
COLLECTED = {
    "phase": "Failed",
    "conditions": [
        {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
        }
    ],
}


class Pods:
    """The server's pod as it is at one look after the other."""

    def __init__(self, *looks: Object) -> None:
        self.looks = [*looks]

    def select(self, _key: object) -> list[Object]:
        return self.looks[:1]

    async def wait(self, _key: object, *, timeout_s: float) -> None:
        self.looks.pop(0)
        await asyncio.sleep(0)


class Cluster:
    """Has one node."""

    async def get(self, _kind: str, _namespace: str | None, name: str) -> Object | None:
        return {} if name == "there" else None


async def test_what_a_pod_says_whose_node_is_gone_counts_no_more() -> None:
    pods = Pods(pod("gone", **READY), pod("gone", **COLLECTED), pod("there", **READY))

    async def make_again() -> None:
        """Nothing was deleted."""

    waiting = wait_until_ready(
        cast("KubeApi", Cluster()),
        cast("Informer", pods),
        KEY,
        endpoint=Endpoint(url="http://web", model="web"),
        make_again=make_again,
        timeout_s=60,
    )
    said = [each async for each in waiting]
    assert len(pods.looks) == 1
    told = {
        "event": "progress",
        "phase": "Kubernetes to remove the pod of node gone, which is gone",
    }
    assert said == [told]
