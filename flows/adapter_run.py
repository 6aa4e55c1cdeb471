"""A run that makes or moves an adapter of a Workspace whose own run has ended.

It is the only one at work there, and what serves is kept meanwhile, with its nodes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run

from flows.prefect_api import RUN_TAG, uid_tag
from flows.recorded_run import as_told
from flows.schedules import RETUNE_FLOW
from tasks.contract.adapter_history import Outcome
from tasks.contract.errors import KaitoflowError, RunSuperseded
from tasks.contract.status import AdapterRun, Progress, WorkspaceStatus
from tasks.contract.units import utc_text
from tasks.contract.workspace import Workspace
from tasks.inference.task import resume_server
from tasks.nodes.task import give_back_nodes, keep_server_nodes
from tasks.platform.current import current_platform
from tasks.steps import change_status

_FAILED = {RETUNE_FLOW: Outcome.RETUNING_FAILED}


@contextlib.asynccontextmanager
async def recorded_adapter_run(workspace: Workspace, flow: str) -> AsyncIterator[None]:
    """Be the Workspace's only run, and leave in its status what kept it from its end.

    Raises: RunInProgress: another run is at work, or has not ended well.
    """
    platform, run_id = current_platform(), str(flow_run.id or "")
    if platform.is_cluster and run_id:
        await _tag(workspace, flow, run_id)
    begun = AdapterRun(flow=flow, flow_run_id=run_id, since=utc_text(datetime.now(UTC)))
    async with platform.hold_run(workspace, adapter_run=begun):
        try:
            yield
            await leave_only_server(workspace)
        except asyncio.CancelledError:
            # On a cluster the next worker goes on with the pods, unless `end_candidate` ends them.
            if not platform.is_cluster:
                await asyncio.shield(change_status(workspace, _is_over))
            raise
        except RunSuperseded:  # the status is the newer generation's by now
            raise
        except Exception as error:
            told = as_told(error)
            with contextlib.suppress(KaitoflowError):  # the run has failed already, by another
                await _end_tuning(workspace)
            outcome = _FAILED.get(flow, Outcome.PROMOTION_FAILED)
            said = f"{outcome}: {told.reason}: {told}"
            await tell(workspace, said, outcome=outcome, reason=told.reason)
            await resume_server(workspace)
            await leave_only_server(workspace)
            raise


async def expect_at_rest(workspace: Workspace, flow: str) -> None:
    """Return where `recorded_adapter_run` may be tried, without being taken for one at work yet.

    Raises: RunInProgress.
    """
    if not current_platform().is_cluster:
        return
    status, generation = (
        await current_platform().read_status(workspace),
        workspace.metadata.generation,
    )
    asked = f"{flow} of {workspace} was to begin"
    status.expect_at_rest(asked, generation=generation, by=str(flow_run.id or ""))


async def _tag(workspace: Workspace, flow: str, run_id: str) -> None:
    """Let the watcher find the run by its Workspace, also where a schedule has started it."""
    meta = workspace.metadata
    tags = {
        RUN_TAG,
        flow,
        uid_tag(meta.uid),
        f"generation:{meta.generation}",
        *(flow_run.tags or ()),
    }
    async with get_client() as client:
        await client.update_flow_run(UUID(run_id), tags=sorted(tags))


async def leave_only_server(workspace: Workspace) -> None:
    """Nothing is under way any more, and nodes that only a candidate needed go back."""
    kept = await keep_server_nodes(workspace)
    await give_back_nodes(workspace, keep=kept)
    await change_status(workspace, _is_over)


async def _end_tuning(workspace: Workspace) -> None:
    """Have a candidate that is being made not be made any more."""
    status = await current_platform().read_status(workspace)
    if begun := status.adapters.candidate:
        await current_platform().end_tuning(workspace, candidate=begun.number)


def _is_over(status: WorkspaceStatus) -> None:
    status.progress = Progress()


async def tell(
    workspace: Workspace, what: str, *, outcome: Outcome | None = None, reason: str = ""
) -> None:
    """Leave in the status what a run came to, with the moment; a failure's reason in a word."""
    now = datetime.now(UTC)
    await change_status(
        workspace,
        lambda status: status.adapters.tell(what, now, outcome=outcome, reason=reason),
    )


async def end_candidate(flow: Any, flow_run: FlowRun, state: Any) -> None:  # noqa: ARG001
    """What a person who cancels the run expects: its candidate ends, and what serves goes on.

    Where a newer generation is the reason, the rest is that one's.
    """
    platform, parameters = current_platform(), flow_run.parameters
    workspace = await platform.find(parameters.get("namespace", "default"), parameters["name"])
    if workspace is None or await platform.is_being_deleted(workspace):
        return
    status = await platform.read_status(workspace)
    if status.adapter_run is None or status.adapter_run.flow_run_id != str(flow_run.id):
        return
    if status.observed_generation == workspace.metadata.generation:
        await _end_tuning(workspace)
        await resume_server(workspace)
        await leave_only_server(workspace)

    def end(status: WorkspaceStatus) -> None:
        status.adapter_run = None

    await change_status(workspace, end)
    await tell(workspace, "cancelled; what serves is what served before")
