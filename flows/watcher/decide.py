"""What is to be done for a Workspace, from what it is and what was done before. Pure.

`runs.py` looks at Workspaces and does what is decided here.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.watcher.owned import Around, as_seen, departures, has_server, is_sound, reason_of
from tasks.contract.errors import InvalidWorkspace, may_pass
from tasks.contract.repairs import Repairs
from tasks.contract.status import (
    ConditionType,
    State,
    WorkspaceStatus,
    first_conditions,
    status_of,
)
from tasks.contract.words import acts_at_once, edited_annotations
from tasks.contract.workspace import (
    FINALIZER,
    STOPPED_ANNOTATION,
    ObjectMeta,
    Workspace,
    parse_workspace,
)

_LONGEST_BACKOFF_S = 600.0
_STOP_REQUESTED = "StopRequested"


@dataclass
class Known:
    """What is remembered of a Workspace between two looks; forgotten, it is found out again.

    started: generation and attempt of the run that is known to be there.
    releases: how many releases of it were lost.
    not_before: when a run that was lost may be started again.
    """

    started: tuple[int, int] | None = None
    releases: int = 0
    not_before: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def wait(self, attempt: int, *, backoff_s: float, now: datetime) -> None:
        """Start nothing for a while: each attempt waits twice as long as the one before."""
        pause_s = min(backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
        self.not_before = now + timedelta(seconds=pause_s)


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Put our finalizer on: the object stays until everything of it has gone."""


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """Tell in the status that the Workspace breaks a rule; no run is started."""

    meta: ObjectMeta
    status: WorkspaceStatus


@dataclass(frozen=True, kw_only=True)
class Stop:
    """End the run, its pods and the server; nodes go back, other things stay for the next run."""

    workspace: Workspace
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Write this status, with which a generation that was stopped begins its next attempt."""

    meta: ObjectMeta
    status: WorkspaceStatus


@dataclass(frozen=True, kw_only=True)
class Correct:
    """Write this status: what the cluster shows is something else than what is told."""

    meta: ObjectMeta
    status: WorkspaceStatus


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Have another run of a generation whose run has ended; `status` is with what it begins."""

    workspace: Workspace
    status: WorkspaceStatus
    reason: str


@dataclass(frozen=True, kw_only=True)
class Start:
    """Have the run of this generation and attempt.

    has_older: whether runs of older generations may be there, and are ended first.
    reason: why there is another one of this generation; empty for the first.
    restores: whether it is only to give what serves back what it has lost.
    """

    workspace: Workspace
    attempt: int
    has_older: bool
    reason: str = ""
    restores: bool = False


@dataclass(frozen=True, kw_only=True)
class Release:
    """Cancel what runs, then have the way back begin; `attempt` counts those that were lost."""

    meta: ObjectMeta
    attempt: int


Action = Hold | Refuse | Stop | Resume | Correct | Repair | Start | Release


def decide(
    manifest: Mapping[str, Any], known: Known, now: datetime, around: Around | None = None
) -> tuple[Action, ...]:
    """What is to be done for a Workspace, in this order; nothing when all is as it should be.

    Args: around: what the cluster has of it; None = nothing is known.
    """
    meta = manifest["metadata"]
    if meta.get("deletionTimestamp"):
        return _release(meta, known, now)
    status = status_of(manifest)
    try:
        workspace = parse_workspace(dict(manifest), source=meta["name"])
    except InvalidWorkspace as error:
        unread = Workspace.model_construct(metadata=ObjectMeta.model_validate(meta))
        return _refuse(unread, status, error, known, now, around or Around())
    held = () if FINALIZER in meta.get("finalizers", ()) else (Hold(),)
    return (*held, *_ensure(workspace, status, known, now, around or Around()))


def _release(meta: Mapping[str, Any], known: Known, now: datetime) -> tuple[Action, ...]:
    if FINALIZER not in meta.get("finalizers", ()) or now < known.not_before:
        return ()
    return (Release(meta=ObjectMeta.model_validate(meta), attempt=known.releases),)


def _refuse(
    unread: Workspace,
    status: WorkspaceStatus,
    error: InvalidWorkspace,
    known: Known,
    now: datetime,
    around: Around,
) -> tuple[Action, ...]:
    """What is to be done for a Workspace that breaks a rule: it is told, what it serves kept true.

    Args: unread: its metadata alone, since nobody knows what the rest means.
    """
    was_stopped = was_asked_to_stop(status)
    if STOPPED_ANNOTATION in unread.metadata.annotations:
        return _stop(unread, status, around)
    if was_stopped or not _tells(status, error, generation=unread.metadata.generation):
        refused = status.model_copy(deep=True)
        refused.observed_generation = unread.metadata.generation
        refused.end_without(
            State.FAILED, reason=error.reason, message=str(error), is_refusal=True, now=now
        )
        return (Refuse(meta=unread.metadata, status=refused),)
    if not status.state.is_settled:
        return _start(unread, status, known, now)
    return _keep_true(unread, status, now, around, is_read=False)


def _tells(status: WorkspaceStatus, error: InvalidWorkspace, *, generation: int) -> bool:
    """Whether the status says already that this generation is refused, and why."""
    found = status.condition(ConditionType.ACCEPTED)
    told = (found.status, found.reason, found.message) if found else ()
    is_current = status.observed_generation == generation
    return is_current and told == ("False", error.reason, str(error))


def _ensure(
    workspace: Workspace, status: WorkspaceStatus, known: Known, now: datetime, around: Around
) -> tuple[Action, ...]:
    is_current = status.observed_generation == workspace.metadata.generation
    was_stopped = was_asked_to_stop(status)
    if STOPPED_ANNOTATION in workspace.metadata.annotations:
        return _stop(workspace, status, around)
    if is_current and was_stopped:
        again = _next_attempt(status)
        again.conditions = first_conditions(status.observed_generation)
        resumed = Resume(meta=workspace.metadata, status=again)
        return (resumed, *_start(workspace, again, known, now))
    if is_current and status.state.is_settled:
        if status.adapter_run:  # it tells of what serves, and keeps it
            return ()
        return _keep_true(workspace, status, now, around)
    return _start(workspace, status if is_current else WorkspaceStatus(), known, now)


def _stop(workspace: Workspace, status: WorkspaceStatus, around: Around) -> tuple[Action, ...]:
    """Once, and again where a server is there: made by a run that was still ending, say."""
    is_over = was_asked_to_stop(status) and not has_server(around)
    return () if is_over else (Stop(workspace=workspace, attempt=status.attempt),)


def _keep_true(
    workspace: Workspace,
    status: WorkspaceStatus,
    now: datetime,
    around: Around,
    *,
    is_read: bool = True,
) -> tuple[Action, ...]:
    """What is to be done for a Workspace whose run has ended, and that may be left since.

    Args: is_read: False = it breaks a rule, and what it serves can be restored, but nothing run.
    """
    seen = as_seen(status, around)
    if seen != status:  # told at once, however long it takes to have a run; that is the next look's
        return (Correct(meta=workspace.metadata, status=seen),)
    left = reason_of(departures(status, around))
    if is_read:
        reason = _edit(workspace, status) or _why_again(status, around, left, now)
    else:
        reason = left if status.repairs.may_restore(now) else ""
    if not reason:
        return ()
    again = _next_attempt(status)
    restores = status.state is State.FAILED and reason == left
    again.repairs = status.repairs.begun(reason, now, restores=restores)
    return (Repair(workspace=workspace, status=again, reason=reason),)


def _edit(workspace: Workspace, status: WorkspaceStatus) -> str:
    """Which annotations were edited that take effect now; empty when none was.

    What failed, or was refused, may have done so for any of them.
    """
    if status.acted_on is None or status.state is State.STOPPED:
        return ""
    edited = edited_annotations(status.acted_on, workspace)
    if status.state is not State.FAILED:
        edited = [name for name in edited if acts_at_once(name)]
    return f"edit: annotation {', '.join(edited)}" if edited else ""


def _why_again(status: WorkspaceStatus, around: Around, left: str, now: datetime) -> str:
    """Why a Workspace whose run has ended is to be run again now; empty when it is not.

    Args: left: what has left of it and needs a run, in words.
    """
    if status.state is State.FAILED and around.changed:
        return f"looked at again: {', '.join(around.changed)} changed"
    if left and status.state is State.FAILED and status.repairs.may_restore(now):
        return left
    if not status.repairs.may_begin(now):
        return ""
    if not is_sound(status):
        return "repair: the status was changed by hand"
    if left:
        return left
    if status.state is State.FAILED:
        failures = [each.reason for each in status.conditions if each.is_failure]
        return next((f"looked at again: {each}" for each in failures if may_pass(each)), "")
    return ""


def _start(
    workspace: Workspace, status: WorkspaceStatus, known: Known, now: datetime
) -> tuple[Action, ...]:
    """Have the run that a status of this generation is at; an empty one is at the first."""
    generation, attempt = workspace.metadata.generation, status.attempt
    if known.started == (generation, attempt) or now < known.not_before:
        return ()
    reason = status.repairs.reason
    return (
        Start(
            workspace=workspace,
            attempt=attempt,
            has_older=generation > 1,
            reason=reason,
            restores=status.repairs.restores and status.served_generation is not None,
        ),
    )


def was_asked_to_stop(status: WorkspaceStatus) -> bool:
    """Whether the Workspace was stopped, and nothing was run since."""
    condition = status.condition(ConditionType.WORKSPACE_SUCCEEDED)
    return condition is not None and condition.reason == _STOP_REQUESTED


def _next_attempt(status: WorkspaceStatus) -> WorkspaceStatus:
    again = status.model_copy(deep=True)
    again.attempt, again.state = status.attempt + 1, State.PENDING
    return again


def has_run(status: WorkspaceStatus, *, generation: int, attempt: int) -> bool:
    """Whether the status tells how this run has ended, or of a later one."""
    if status.observed_generation != generation:
        return status.observed_generation > generation
    return status.attempt > attempt or status.state.is_settled


def lost(status: WorkspaceStatus, *, generation: int, attempt: int) -> WorkspaceStatus:
    """The status after a run was lost: another attempt follows."""
    planned = status.model_copy(deep=True)
    if status.observed_generation != generation:
        planned.repairs = Repairs()
    planned.observed_generation, planned.attempt = generation, attempt + 1
    return planned


def cancelled(status: WorkspaceStatus, *, generation: int, now: datetime) -> WorkspaceStatus:
    """The status of a Workspace whose run a person ended in Prefect, and which told no end."""
    ended = status.model_copy(deep=True)
    ended.observed_generation = generation
    message = "the run was cancelled in Prefect; run it again to resume"
    ended.end_without(State.STOPPED, reason="Stopped", message=message, now=now)
    return ended


def stopped(status: WorkspaceStatus, *, generation: int, now: datetime) -> WorkspaceStatus:
    """The status of a Workspace whose run and server were ended, and whose nodes go back."""
    ended = status.model_copy(deep=True)
    ended.observed_generation, ended.adapter_run = generation, None
    ended.cost = status.cost.holding((), now)
    message = f"annotation {STOPPED_ANNOTATION} is set; remove it to run again"
    ended.set_condition(
        ConditionType.INFERENCE_READY,
        status="False",
        reason=_STOP_REQUESTED,
        message=message,
        now=now,
    )
    ended.end_without(State.STOPPED, reason=_STOP_REQUESTED, message=message, now=now)
    return ended


def longest_unasked(
    manifests: Collection[Mapping[str, Any]], asked_s: Mapping[str, float], *, limit: int
) -> list[Mapping[str, Any]]:
    """Workspaces under way that were not asked about the longest, at most so many.

    Args: asked_s: when each that has a run was asked about last, by its uid.
    """
    waiting = [
        manifest
        for manifest in manifests
        if manifest["metadata"]["uid"] in asked_s and not status_of(manifest).state.is_settled
    ]
    return sorted(waiting, key=lambda each: asked_s[each["metadata"]["uid"]])[:limit]
