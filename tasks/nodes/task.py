"""Step `provision`: a node that the Workspace's pods can run on."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import Node
from tasks.platform import local_platform
from tasks.status import ConditionType, WorkspaceStatus
from tasks.steps import change_status, recorded_step
from tasks.workspace import Workspace


@task(name="provision", task_run_name="provision {workspace}", cache_policy=NO_CACHE)
async def provision_node(workspace: Workspace) -> Node:
    """The node for the Workspace; on the local platform this machine."""
    async with recorded_step(workspace, "provision") as step:
        node = await local_platform().node()
        step.detail = f"{node.name}: {node.cores} cores, {node.memory_gib:.1f} GiB free"

        def ready(status: WorkspaceStatus) -> None:
            status.worker_nodes = [node.name]
            for kind, reason in (
                (ConditionType.NODES_READY, "NodesReady"),
                (ConditionType.RESOURCE_READY, "workspaceResourceStatusSuccess"),
            ):
                status.set_condition(kind, status="True", reason=reason, message=step.detail)

        await change_status(workspace, ready)
        return node
