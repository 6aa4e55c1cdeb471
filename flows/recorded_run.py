"""How a run is recorded: the status it begins with, and the one that it leaves when it fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from prefect.runtime import flow_run

from tasks.contract.errors import InternalError, KaitoflowError, RunSuperseded
from tasks.contract.status import ConditionType, State, WorkspaceStatus, fresh_status
from tasks.contract.words import acted_on
from tasks.contract.workspace import Workspace
from tasks.inference.task import resume_server
from tasks.nodes.task import give_back_nodes, keep_server_nodes
from tasks.platform.current import current_platform
from tasks.steps import change_status


@contextlib.asynccontextmanager
async def recorded_run(workspace: Workspace) -> AsyncIterator[None]:
    """Be the Workspace's only run, and leave in its status how the run ended."""
    platform = current_platform()
    async with platform.hold_run(workspace):
        previous = await platform.read_status(workspace)
        status = fresh_status(
            workspace.metadata.generation,
            previous,
            is_tuned=workspace.tuning is not None,
            is_served=workspace.is_served,
        )
        status.flow_run_id = str(flow_run.id or "")
        status.acted_on = acted_on(workspace)
        await platform.write_status(workspace, status)
        try:
            yield
        except asyncio.CancelledError:
            # On a cluster the next worker goes on with the pods, unless `stop_pods` ends them.
            if not platform.is_cluster:
                await asyncio.shield(change_status(workspace, stopped))
            raise
        except RunSuperseded:  # the status is the newer generation's by now
            raise
        except Exception as error:
            with contextlib.suppress(KaitoflowError):  # the run has failed already, by another
                await platform.end_tuning(workspace)
            kept = await keep_server_nodes(workspace)
            await _fail(workspace, as_told(error))
            await resume_server(workspace)
            await give_back_nodes(workspace, keep=kept)
            raise


def as_told(error: Exception) -> KaitoflowError:
    """The error as a status tells it; one that nobody expected is a defect of ours."""
    if isinstance(error, KaitoflowError):
        return error
    told = f"{type(error).__name__}: {error}"
    return InternalError("", told, "please report it with the run's log")


async def _fail(workspace: Workspace, error: KaitoflowError) -> None:
    """Say why, and when it is looked at again, if the world may mend it."""

    def change(status: WorkspaceStatus) -> None:
        refused = error.refuses and not status.is_true(ConditionType.ACCEPTED)
        message = str(error)
        if current_platform().is_cluster and error.may_pass:
            status.repairs = status.repairs.after_failure(
                datetime.now(UTC),
                cost_service=status.is_server_paused,
                is_unheard=error.is_unheard,
            )
            message += f"; {status.repairs.next_look}"
        if status.serves_older and status.endpoint:
            message += f"; generation {status.served_generation} serves {status.endpoint.url}"
        status.end_without(State.FAILED, reason=error.reason, message=message, is_refusal=refused)

    await change_status(workspace, change)


def stopped(status: WorkspaceStatus) -> None:
    """Say that the run was stopped by a person."""
    message = "the run was stopped; run it again to resume"
    status.end_without(State.STOPPED, reason="Stopped", message=message)
