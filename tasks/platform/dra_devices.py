"""GPUs that a driver of Dynamic Resource Allocation tells of, as nodes would count them.

Such a GPU is no part of its node's status: it stands in a ResourceSlice. A pod that asks for
`nvidia.com/gpu` gets one where a DeviceClass says so (`extendedResourceName`, Kubernetes 1.36).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from tasks.contract.quantity import parse_quantity
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import GPU, Object, Seen, name_of

_DRIVER = "gpu.nvidia.com"
# NVIDIA's driver tells MIG slices, and GPUs that are passed to virtual machines, too.
_WHOLE_GPU = "gpu"
# Of the claims that the scheduler makes for pods that ask for the resource by its name.
_FOR_RESOURCE_ANNOTATION = "resource.kubernetes.io/extended-resource-claim"

_Device = tuple[str, str]


async def counted_nodes(api: KubeApi) -> list[Object]:
    """Every node of the cluster, with the GPUs of ResourceSlices among those it gives to pods.

    Who may not see the slices, or whose cluster has none, gets the nodes as they are.
    """
    nodes = await api.find("Node")
    slices = await api.find_if_any("ResourceSlice", fields={"spec.driver": _DRIVER})
    if not slices:
        return nodes
    classes = await api.find_if_any("DeviceClass")
    return with_devices(nodes, slices, classes, await api.find_if_any("ResourceClaim"))


def with_devices(
    nodes: Sequence[Object],
    slices: Sequence[Seen],
    classes: Iterable[Seen],
    claims: Iterable[Seen],
) -> list[Object]:
    """The nodes, each with its GPUs that a pod may get by asking for so many.

    Those that others hold by claims of their own are left out: whose they are is in no pod's spec.
    A node whose device plugin counts GPUs is left as it is.
    """
    if not any(each["spec"].get("extendedResourceName") == GPU for each in classes):
        return list(nodes)
    held = {device for claim in claims if not _is_for_resource(claim) for device in _held(claim)}
    counts = Counter(
        each["spec"]["nodeName"]
        for each in _newest(slices)
        for device in each["spec"].get("devices") or ()
        if _is_whole(device) and (each["spec"]["pool"]["name"], device["name"]) not in held
    )
    return [_counting(node, counts[name_of(node)]) for node in nodes]


def _counting(node: Object, gpus: int) -> Object:
    status = node.get("status") or {}
    allocatable = status.get("allocatable") or {}
    if not gpus or parse_quantity(allocatable.get(GPU, 0)):
        return node
    return node | {"status": status | {"allocatable": allocatable | {GPU: str(gpus)}}}


def _newest(slices: Sequence[Seen]) -> list[Seen]:
    """Those of each pool's newest generation, of one node: a driver replaces them one by one."""
    newest: dict[str, int] = {}
    for each in slices:
        pool = each["spec"]["pool"]
        newest[pool["name"]] = max(newest.get(pool["name"], 0), pool["generation"])
    return [
        each
        for each in slices
        if each["spec"].get("nodeName")
        and each["spec"]["pool"]["generation"] == newest[each["spec"]["pool"]["name"]]
    ]


def _is_whole(device: Seen) -> bool:
    """Whether it is a GPU that works, and no slice of one."""
    told = device.get("attributes") or {}
    kind = told.get("type") or told.get(f"{_DRIVER}/type") or {}
    keeps_away = {each["effect"] for each in device.get("taints") or ()} - {"None"}
    return kind.get("string") == _WHOLE_GPU and not keeps_away


def _is_for_resource(claim: Seen) -> bool:
    return _FOR_RESOURCE_ANNOTATION in (claim["metadata"].get("annotations") or {})


def _held(claim: Seen) -> Iterable[_Device]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return ((each["pool"], each["device"]) for each in results if each["driver"] == _DRIVER)
