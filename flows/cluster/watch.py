"""A run on a cluster, watched from outside: its status, until it has ended."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from tasks.contract.errors import (
    Failed,
    InternalError,
    KaitoflowError,
    KubernetesUnavailable,
    Refused,
    RunSuperseded,
    error_from_reason,
)
from tasks.contract.status import ConditionType, State, WorkspaceStatus, status_of
from tasks.contract.workspace import Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object
from tasks.settings import settings

LOOK_AGAIN_S = 0.5
Show = Callable[[WorkspaceStatus], None]

_OUTAGE_MAX_S = 300.0


class NoWatcher(Failed):
    """Nothing in the cluster acts on the Workspace."""


class RunStopped(Failed):
    """Somebody stopped the run that was watched."""


class WorkspaceDeleted(Failed):
    """Somebody deleted the Workspace whose run was watched."""


def is_under_way(workspace: Workspace, status: WorkspaceStatus) -> bool:
    """Whether a run of the Workspace's generation has begun and not ended."""
    is_current = status.observed_generation == workspace.metadata.generation
    return is_current and not status.state.is_settled


async def watch_run(
    api: KubeApi,
    workspace: Workspace,
    show: Show,
    *,
    previous_run: str | None,
) -> WorkspaceStatus:
    """The status with which the run ended well; shows every one until then.

    Args: previous_run: a run of this generation that ended before; another one is waited for.
    Raises: the typed error with which the run ended; NoWatcher, RunStopped, RunSuperseded,
    WorkspaceDeleted; KubernetesUnavailable when the API server is away for minutes.
    """
    async with contextlib.aclosing(_statuses(api, workspace, previous_run)) as statuses:
        async for status in statuses:
            if status.flow_run_id != previous_run:
                show(status)
            if status.state.is_settled:
                break
    _raise_for(workspace, status)
    return status


async def await_verdict(
    api: KubeApi, workspace: Workspace, *, previous_run: str | None
) -> WorkspaceStatus:
    """The status with which the run tells that it takes the Workspace on.

    Raises: as `watch_run`, where it is refused, or has ended otherwise before.
    """
    async with contextlib.aclosing(_statuses(api, workspace, previous_run)) as statuses:
        async for status in statuses:
            if status.state.is_settled:
                _raise_for(workspace, status)
            if status.state.is_settled or status.is_true(ConditionType.ACCEPTED):
                break
    return status


async def _statuses(
    api: KubeApi, workspace: Workspace, previous_run: str | None
) -> AsyncGenerator[WorkspaceStatus]:
    """What the run tells, look by look, from when a watcher has picked the Workspace up."""
    clock = asyncio.get_running_loop()
    patience_s = settings().watcher_timeout_s
    deadline = clock.time() + patience_s
    while True:
        status = status_of(await _look(api, workspace))
        is_over = status.flow_run_id == previous_run and status.state.is_settled
        if status.observed_generation == workspace.metadata.generation and not is_over:
            yield status
        elif clock.time() > deadline:
            raise NoWatcher(
                f"workspace {workspace} was applied",
                f"nothing has picked it up within {patience_s:.0f} s, so no watcher seems to run",
                "install it (helm install kaitoflow deployments/chart) or see `kubectl get pods -A "
                "-l app.kubernetes.io/name=kaitoflow`; the Workspace runs as soon as one is there",
            )
        await asyncio.sleep(LOOK_AGAIN_S)


async def _look(api: KubeApi, workspace: Workspace) -> Object:
    """The Workspace now; an API server that is away for a while is waited for."""
    clock, meta = asyncio.get_running_loop(), workspace.metadata
    deadline = clock.time() + _OUTAGE_MAX_S
    while True:
        try:
            found = await api.get("Workspace", meta.namespace, meta.name)
            break
        except KubernetesUnavailable:
            if clock.time() > deadline:
                raise
            await asyncio.sleep(LOOK_AGAIN_S)
    now = (found or {}).get("metadata", {})
    if found is None or now["uid"] != meta.uid or "deletionTimestamp" in now:
        raise WorkspaceDeleted(
            f"the run of workspace {workspace} was watched",
            "it was deleted",
            "apply it again",
        )
    generation = now["generation"]
    if generation != meta.generation:
        raise RunSuperseded(
            f"generation {meta.generation} of workspace {workspace} was watched",
            f"generation {generation} is there by now",
            f"watch that one: kaitoflow get {meta.name} -w",
        )
    return found


def _raise_for(workspace: Workspace, status: WorkspaceStatus) -> None:
    """Raise how a run ended, if not well."""
    if status.state.ended_well:
        return
    accepted = status.condition(ConditionType.ACCEPTED)
    served = status.condition(ConditionType.INFERENCE_READY)
    ended = status.condition(ConditionType.WORKSPACE_SUCCEEDED)
    if accepted and accepted.status == "False":
        raise _typed(accepted.reason, accepted.message, otherwise=Refused)
    if status.state == State.STOPPED:
        raise RunStopped(
            f"the run of workspace {workspace} was watched",
            "it was stopped",
            "run it again to resume",
        )
    if status.state == State.NOT_READY and served:
        raise _typed(served.reason, served.message, otherwise=Failed)
    raise _typed(
        ended.reason if ended else "Failed",
        ended.message if ended else f"the run of workspace {workspace} failed without a word",
        otherwise=Failed,
    )


def _typed(reason: str, message: str, *, otherwise: type[KaitoflowError]) -> KaitoflowError:
    error = error_from_reason(reason, asked="", found=message, fix="")
    if isinstance(error, InternalError) and reason != error.reason:
        return otherwise("", f"{reason}: {message}", "")
    return error
