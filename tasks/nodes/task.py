"""Step `provision`: a node that the Workspace's pods can run on."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import Node
from tasks.nodes import current_provisioner
from tasks.nodes.need import need_of
from tasks.nodes.provisioner import ReadyNodes
from tasks.status import ConditionType, WorkspaceStatus
from tasks.steps import change_status, recorded_step
from tasks.workspace import Workspace


@task(name="provision", task_run_name="provision {workspace}", cache_policy=NO_CACHE)
async def provision_node(workspace: Workspace, *, memory_gib: float | None = None) -> Node:
    """The node for the Workspace; on the local platform this machine.

    Args: memory_gib: the plan's estimate of the peak.
    Raises: NodeNotReady: none that fits was there in time.
    """

    async def wait(reason: str, message: str) -> None:
        await change_status(workspace, lambda status: _not_ready(status, reason, message))

    async with recorded_step(workspace, "provision") as step:
        need = need_of(workspace, memory_gib=memory_gib)
        ready = await current_provisioner().ensure_nodes(workspace, need, on_waiting=wait)
        step.detail = ready.detail
        await change_status(workspace, lambda status: _ready(status, ready))
        return ready.nodes[0]


def _not_ready(status: WorkspaceStatus, reason: str, message: str) -> None:
    status.progress.phase = message
    for kind in (ConditionType.NODES_READY, ConditionType.RESOURCE_READY):
        status.set_condition(kind, status="False", reason=reason, message=message)


def _ready(status: WorkspaceStatus, ready: ReadyNodes) -> None:
    status.worker_nodes = sorted(node.name for node in ready.nodes)
    for kind, reason in (
        (ConditionType.NODES_READY, "NodesReady"),
        (ConditionType.RESOURCE_READY, "workspaceResourceStatusSuccess"),
    ):
        status.set_condition(kind, status="True", reason=reason, message=ready.detail)
