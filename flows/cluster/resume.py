"""Running a generation again that was stopped, refused or has failed."""

import asyncio

from flows.cluster.end import Waiting, is_ending, mark_stopped
from flows.cluster.watch import LOOK_AGAIN_S
from tasks.contract.status import State, status_of
from tasks.contract.workspace import STOPPED_ANNOTATION, Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object


async def begin_again(api: KubeApi, workspace: Workspace, before: Object | None) -> str | None:
    """Let a generation run again; the run that ended, None when there is nothing to repeat.

    Args: before: the Workspace as it was before it was applied.
    Raises: NoWatcher: nothing in the cluster acts on the Workspace.
    """
    if before is None:
        return None
    status = status_of(before)
    is_stopped = STOPPED_ANNOTATION in before["metadata"].get("annotations", {})
    is_current = status.observed_generation == workspace.metadata.generation
    has_failed = is_current and status.state.ended_badly
    if has_failed and not is_stopped:
        await _stop_what_failed(api, workspace)
    elif is_stopped:
        await mark_stopped(api, workspace, stopped=False)
    return status.flow_run_id if is_current and (has_failed or is_stopped) else None


async def _stop_what_failed(api: KubeApi, workspace: Workspace) -> None:
    """Have the watcher take note that the run is over: it runs again what was stopped only."""
    meta = workspace.metadata
    waiting = Waiting(workspace, "was to run again", _say_nothing)
    await mark_stopped(api, workspace, stopped=True)
    try:
        while True:
            found = await api.get("Workspace", meta.namespace, meta.name)
            if found is None or status_of(found).state == State.STOPPED:
                return
            waiting.go_on(["its last run"], is_acted_on=await is_ending(api, workspace))
            await asyncio.sleep(LOOK_AGAIN_S)
    finally:
        # Whatever happens, who asked to run it again did not ask to stop it.
        await mark_stopped(api, workspace, stopped=False)


def _say_nothing(_waits_for: str) -> None:
    pass
