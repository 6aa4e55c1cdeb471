"""GPUs that a driver of Dynamic Resource Allocation tells of count as nodes' own do."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.nodes.provisioner import NodeNeed
from tasks.nodes.selection import select_nodes
from tasks.platform.dra_devices import counted_nodes, with_devices
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.wire import GPU, Object
from tests.cluster.control_plane import ControlPlane
from tests.nodes.test_byo import node
from tests.platform.test_ownership_on_a_cluster import platform, reachable

__all__ = ["platform", "reachable"]
DRIVER = "gpu.nvidia.com"
CLASS = {"metadata": {"name": DRIVER}, "spec": {"extendedResourceName": GPU}}


def device(name: str, kind: str = "gpu", **more: Any) -> Object:
    return {"name": name, "attributes": {"type": {"string": kind}}} | more


def resource_slice(*devices: Object, generation: int = 1, on: str = "gpu-1") -> Object:
    pool = {"name": on, "generation": generation, "resourceSliceCount": 1}
    return {"spec": {"driver": DRIVER, "nodeName": on, "pool": pool, "devices": [*devices]}}


def claim(name: str, **annotations: str) -> Object:
    results = [{"driver": DRIVER, "pool": "gpu-1", "device": name, "request": "r"}]
    status = {"allocation": {"devices": {"results": results}}}
    return {"metadata": {"annotations": annotations}, "status": status}


def gpus(
    *slices: Object,
    classes: tuple[Object, ...] = (CLASS,),
    claims: tuple[Object, ...] = (),
    counted: int = 0,
) -> int:
    """How many a node is seen to have whose device plugin counts so many."""
    [seen] = with_devices([node(gpus=counted)], slices, classes, claims)
    return int(seen["status"]["allocatable"].get(GPU, 0))


def test_whole_gpus_of_a_node_count_and_slices_of_them_do_not() -> None:
    assert gpus(resource_slice(device("gpu-0"), device("gpu-1"), device("mig-0", "mig"))) == 2


def test_gpus_of_another_node_or_of_a_broken_one_do_not_count() -> None:
    broken = device("gpu-1", taints=[{"key": "health", "effect": "NoExecute"}])
    assert gpus(resource_slice(device("gpu-0"), broken)) == 1
    assert gpus(resource_slice(device("gpu-0"), on="gpu-2")) == 0


def test_only_what_a_pod_gets_that_asks_for_the_resource_by_name_counts() -> None:
    other = {"metadata": {"name": DRIVER}, "spec": {}}
    assert gpus(resource_slice(device("gpu-0")), classes=(other,)) == 0


def test_what_a_pod_holds_by_a_claim_of_its_own_is_not_there_to_be_given() -> None:
    """Who asked for it by name is counted among the holders, as with a device plugin."""
    two = resource_slice(device("gpu-0"), device("gpu-1"))
    assert gpus(two, claims=(claim("gpu-0"),)) == 1
    by_name = claim("gpu-0", **{"resource.kubernetes.io/extended-resource-claim": "true"})
    assert gpus(two, claims=(by_name,)) == 2


def test_a_pool_that_is_told_anew_counts_once() -> None:
    old, new = resource_slice(device("gpu-0")), resource_slice(device("gpu-0"), generation=2)
    assert gpus(old, new) == 1


def test_a_node_whose_device_plugin_counts_is_left_to_it() -> None:
    assert gpus(resource_slice(device("gpu-0"), device("gpu-1")), counted=1) == 1


def test_such_a_node_is_one_that_a_workspace_can_be_tuned_on() -> None:
    seen = with_devices([node(gpus=0)], [resource_slice(device("gpu-0"))], [CLASS], [])
    assert select_nodes(NodeNeed(gpus=1), seen).is_enough
    assert not select_nodes(NodeNeed(gpus=1), [node(gpus=0)]).is_enough


@pytest.fixture
async def api(platform: KubernetesPlatform) -> KubeApi:
    return await platform.api()


@pytest.fixture
def dra_node(control_plane: ControlPlane) -> Iterator[str]:
    """A node whose one GPU stands in a ResourceSlice, which a DeviceClass gives by name."""
    name = f"dra-{secrets.token_hex(4)}"
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
    cel = {"expression": f"device.driver == '{DRIVER}'"}
    version = "resource.k8s.io/v1"
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}},
        {
            "apiVersion": version,
            "kind": "DeviceClass",
            "metadata": {"name": name},
            "spec": {"selectors": [{"cel": cel}], "extendedResourceName": GPU},
        },
        {
            "apiVersion": version,
            "kind": "ResourceSlice",
            "metadata": {"name": name},
            "spec": {
                "driver": DRIVER,
                "nodeName": name,
                "pool": pool,
                "devices": [device("gpu-0")],
            },
        },
    ]
    told = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    control_plane.kubectl("create", "--filename=-", stdin=told)
    yield name
    control_plane.kubectl("delete", "--filename=-", stdin=told)


@pytest.mark.cluster
async def test_an_api_server_tells_of_them(api: KubeApi, dra_node: str) -> None:
    found = {each["metadata"]["name"]: each for each in await counted_nodes(api)}
    assert found[dra_node]["status"]["allocatable"] == {GPU: "1"}
