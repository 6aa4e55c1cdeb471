"""Who holds GPUs of a cluster's nodes: pods that have a node and have not ended. Pure."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.contract.quantity import parse_quantity
from tasks.contract.steps import INFERENCE
from tasks.contract.workspace import Workspace
from tasks.nodes.provisioner import NodeNeed
from tasks.platform.manifests.labels import GENERATION_LABEL, MANAGED_BY, POD_LABEL, WORKSPACE_LABEL
from tasks.platform.wire import GPU, Seen, name_of

_ENDED_PHASES = {"Succeeded", "Failed"}


@dataclass(frozen=True, kw_only=True)
class GpuHolder:
    """A pod that holds GPUs of its node, with no more than is asked about it: clusters are large.

    workspace: the name of the Workspace that the pod was made for; empty = it is somebody else's.
    generation: of that Workspace; 0 = of none. is_server: whether it serves, and does not tune.
    """

    node: str
    namespace: str
    pod: str
    gpus: int
    workspace: str = ""
    generation: int = 0
    is_server: bool = False

    def is_of(self, workspace: Workspace) -> bool:
        """Whether it is a pod of the Workspace, of whatever generation."""
        meta = workspace.metadata
        return (self.namespace, self.workspace) == (meta.namespace, meta.name)


HolderLister = Callable[[], Awaitable[Sequence[GpuHolder]]]


def gpu_holders(pods: Iterable[Seen]) -> list[GpuHolder]:
    """Those of the pods that hold GPUs of a node now."""
    return [_holder(pod, gpus) for pod in pods if (gpus := _gpus_held(pod))]


def in_the_way(
    holders: Sequence[GpuHolder], workspace: Workspace, need: NodeNeed
) -> list[GpuHolder]:
    """Those whose GPUs the Workspace's next pods cannot have.

    A run begins when no pod of an older tuning is left, and its own pods are the next pods; beside
    what it serves, a newer generation may be tuned.
    """
    generation = workspace.metadata.generation

    def stays(holder: GpuHolder) -> bool:
        if not holder.is_of(workspace):
            return True
        if holder.is_server:
            goes_on = need.is_candidate or holder.generation != generation
            return goes_on and not need.server_ends
        return 0 < generation < holder.generation

    return list(filter(stays, holders))


def _holder(pod: Seen, gpus: int) -> GpuHolder:
    meta = pod["metadata"]
    labels: Mapping[str, str] = meta.get("labels") or {}
    is_ours = MANAGED_BY.items() <= labels.items()
    return GpuHolder(
        node=pod["spec"]["nodeName"],
        namespace=meta["namespace"],
        pod=name_of(pod),
        gpus=gpus,
        workspace=labels.get(WORKSPACE_LABEL, "") if is_ours else "",
        generation=int(labels.get(GENERATION_LABEL, "0")) if is_ours else 0,
        is_server=is_ours and labels.get(POD_LABEL) == INFERENCE,
    )


def _gpus_held(pod: Seen) -> int:
    """Count as the scheduler does: containers run together, init containers one after the other.

    An init container that is always restarted (a sidecar) runs beside all that come after it.
    """
    spec, phase = pod.get("spec") or {}, (pod.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in _ENDED_PHASES:
        return 0
    beside = most = 0
    for container in spec.get("initContainers") or ():
        most = max(most, beside + _asked(container))
        if container.get("restartPolicy") == "Always":
            beside += _asked(container)
    return max(most, beside + sum(map(_asked, spec.get("containers") or ())))


def _asked(container: Seen) -> int:
    resources = container.get("resources") or {}
    # What is limited and not requested is requested: so the API server fills it in.
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return int(parse_quantity(asked.get(GPU, 0)))
