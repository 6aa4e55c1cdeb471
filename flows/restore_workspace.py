"""What is served gets back what it has lost, while a newer generation was refused or has failed."""

from functools import partial
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run

from flows.served import expect_served
from tasks.contract.errors import KaitoflowError, RunSuperseded
from tasks.contract.status import ConditionType, Progress, State, WorkspaceStatus
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.inference.task import await_served
from tasks.nodes.current import current_provisioner
from tasks.nodes.task import give_back_nodes, keep_server_nodes, kept_nodes, provision_node
from tasks.platform.current import current_platform
from tasks.steps import change_status


async def leave_undone(flow: Any, flow_run: FlowRun, state: Any) -> None:  # noqa: ARG001
    """What a person who cancels a run expects: nothing is at work any more, and nothing ends."""
    metadata = ObjectMeta.model_validate(flow_run.parameters["metadata"])
    workspace = Workspace.model_construct(metadata=metadata)
    if await current_platform().is_current(workspace):
        await change_status(workspace, _end)


@flow(
    name="restore-workspace",
    flow_run_name="restore {metadata}",
    on_cancellation=[leave_undone],
)
async def restore_workspace(metadata: ObjectMeta) -> None:
    """Have what is served as it was: its objects, its nodes, its pods. Nothing is tuned.

    What is told of the generation that was refused, or has failed, stays.

    Args: metadata: names the Workspace; what else it asks for may be read by nobody.
    """
    expect_served(metadata)
    workspace, platform = Workspace.model_construct(metadata=metadata), current_platform()
    if not await platform.is_current(workspace):
        return
    await change_status(workspace, _begin)
    try:
        served = await platform.restore_server(workspace)
        if served and current_provisioner().makes_nodes:
            await provision_node(served)
        if served:
            # A look at nodes may be a second old, and show one that was lost since.
            async with kept_nodes(served, memory_gib=None):
                await await_served(workspace)
    except RunSuperseded:  # the status is the newer generation's by now
        raise
    except Exception as error:
        why = error if isinstance(error, KaitoflowError) else None
        await change_status(workspace, partial(_end, error=why))
        raise
    kept = await keep_server_nodes(workspace)
    await change_status(workspace, _end)
    await give_back_nodes(workspace, keep=kept)


def _begin(status: WorkspaceStatus) -> None:
    status.state, status.flow_run_id = State.RUNNING, str(flow_run.id or "")


def _end(status: WorkspaceStatus, error: KaitoflowError | None = None) -> None:
    """Leave the state to the newer generation, which the conditions tell of."""
    status.state, status.progress = State.FAILED, Progress()
    if error:
        status.set_condition(
            ConditionType.INFERENCE_READY,
            status="False",
            reason=error.reason,
            message=str(error),
            generation=status.served_generation,
        )
