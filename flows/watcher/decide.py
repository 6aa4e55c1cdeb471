"""What is to be done for a Workspace, from what it is and what was done before. Pure.

`runs.py` looks at Workspaces and does what is decided here.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.status import ConditionType, State, WorkspaceStatus, status_of
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
class Start:
    """Have the run of this generation and attempt.

    has_older: whether runs of older generations may be there, and are ended first.
    """

    workspace: Workspace
    attempt: int
    has_older: bool


@dataclass(frozen=True, kw_only=True)
class Release:
    """Cancel what runs, then have the way back begin; `attempt` counts those that were lost."""

    meta: ObjectMeta
    attempt: int


Action = Hold | Refuse | Stop | Resume | Start | Release


def is_ours(meta: Mapping[str, Any], namespaces: Collection[str]) -> bool:
    """Whether an object is in a namespace of this watcher's; every one is, when none is named."""
    return not namespaces or meta["namespace"] in namespaces


def decide(manifest: Mapping[str, Any], known: Known, now: datetime) -> tuple[Action, ...]:
    """What is to be done for a Workspace, in this order; nothing when all is as it should be."""
    meta = manifest["metadata"]
    if meta.get("deletionTimestamp"):
        return _release(meta, known, now)
    status = status_of(manifest)
    try:
        workspace = parse_workspace(dict(manifest), source=meta["name"])
    except InvalidWorkspace as error:
        return _refuse(meta, status, error, now)
    held = () if FINALIZER in meta.get("finalizers", ()) else (Hold(),)
    return (*held, *_ensure(workspace, status, known, now))


def _release(meta: Mapping[str, Any], known: Known, now: datetime) -> tuple[Action, ...]:
    if FINALIZER not in meta.get("finalizers", ()) or now < known.not_before:
        return ()
    return (Release(meta=ObjectMeta.model_validate(meta), attempt=known.releases),)


def _refuse(
    meta: Mapping[str, Any], status: WorkspaceStatus, error: InvalidWorkspace, now: datetime
) -> tuple[Action, ...]:
    refused = status.model_copy(deep=True)
    refused.observed_generation, refused.state = meta["generation"], State.FAILED
    refused.set_condition(
        ConditionType.ACCEPTED, status="False", reason=error.reason, message=str(error), now=now
    )
    if refused == status:
        return ()
    return (Refuse(meta=ObjectMeta.model_validate(meta), status=refused),)


def _ensure(
    workspace: Workspace, status: WorkspaceStatus, known: Known, now: datetime
) -> tuple[Action, ...]:
    is_current = status.observed_generation == workspace.metadata.generation
    was_stopped = was_asked_to_stop(status)
    if STOPPED_ANNOTATION in workspace.metadata.annotations:
        return () if was_stopped else (Stop(workspace=workspace, attempt=status.attempt),)
    if is_current and was_stopped:
        again = _next_attempt(status)
        resumed = Resume(meta=workspace.metadata, status=again)
        return (resumed, *_start(workspace, again.attempt, known, now))
    if is_current and status.state.is_settled:
        return ()
    return _start(workspace, status.attempt if is_current else 0, known, now)


def _start(workspace: Workspace, attempt: int, known: Known, now: datetime) -> tuple[Action, ...]:
    generation = workspace.metadata.generation
    if known.started == (generation, attempt) or now < known.not_before:
        return ()
    return (Start(workspace=workspace, attempt=attempt, has_older=generation > 1),)


def was_asked_to_stop(status: WorkspaceStatus) -> bool:
    """Whether the Workspace was stopped, and nothing was run since."""
    condition = status.condition(ConditionType.WORKSPACE_SUCCEEDED)
    return condition is not None and condition.reason == _STOP_REQUESTED


def _next_attempt(status: WorkspaceStatus) -> WorkspaceStatus:
    again = status.model_copy(deep=True)
    again.attempt, again.state, again.conditions = status.attempt + 1, State.PENDING, []
    return again


def lost(status: WorkspaceStatus, *, generation: int, attempt: int) -> WorkspaceStatus:
    """The status after a run was lost: another attempt follows."""
    planned = status.model_copy(deep=True)
    planned.observed_generation, planned.attempt = generation, attempt + 1
    return planned


def stopped(status: WorkspaceStatus, *, generation: int, now: datetime) -> WorkspaceStatus:
    """The status of a Workspace whose run and server were ended, and whose nodes go back."""
    ended = status.model_copy(deep=True)
    ended.observed_generation, ended.state = generation, State.STOPPED
    ended.cost = status.cost.holding((), now)
    for kind in (ConditionType.INFERENCE_READY, ConditionType.WORKSPACE_SUCCEEDED):
        ended.set_condition(
            kind,
            status="False",
            reason=_STOP_REQUESTED,
            message=f"annotation {STOPPED_ANNOTATION} is set; remove it to run again",
            now=now,
        )
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
