"""What the watcher does for a Workspace follows from the object, its status and what was done."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.watcher.decide import (
    Action,
    Hold,
    Known,
    Refuse,
    Release,
    Resume,
    Start,
    Stop,
    decide,
    is_ours,
    longest_unasked,
    lost,
    stopped,
)
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tasks.contract.workspace import FINALIZER, STOPPED_ANNOTATION
from tests.builders import tuning_manifest

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)
BACKOFF_S = 10.0
Object = dict[str, Any]


def workspace(status: WorkspaceStatus | None = None, *, generation: int = 1, **meta: Any) -> Object:
    """A Workspace as the API server has it, which the watcher has taken on."""
    manifest = tuning_manifest("tuned")
    manifest["metadata"] |= {
        "namespace": "team",
        "uid": "1",
        "generation": generation,
        "finalizers": [FINALIZER],
        **meta,
    }
    if status:
        manifest["status"] = status.model_dump(mode="json", by_alias=True)
    return manifest


def a_status(state: State, *, generation: int = 1, attempt: int = 0) -> WorkspaceStatus:
    return WorkspaceStatus(state=state, observed_generation=generation, attempt=attempt)


def was_stopped(*, attempt: int = 0) -> WorkspaceStatus:
    return stopped(a_status(State.READY, attempt=attempt), generation=1, now=NOW)


STOPPED_BY_ANNOTATION: Object = {"annotations": {STOPPED_ANNOTATION: "1"}}
DELETED: Object = {"deletionTimestamp": "2026-05-01T12:00:00Z"}


def told(actions: tuple[Action, ...]) -> list[tuple[Any, ...]]:
    """The actions with what differs between them."""
    found: list[tuple[Any, ...]] = []
    for action in actions:
        match action:
            case Start(attempt=attempt, has_older=has_older):
                found.append((Start, attempt, has_older))
            case Stop(attempt=attempt) | Release(attempt=attempt):
                found.append((type(action), attempt))
            case Resume(status=status):
                found.append((Resume, status.attempt, status.state, status.conditions))
            case Hold() | Refuse():
                found.append((type(action),))
    return found


SITUATIONS: dict[str, tuple[Object, Known, list[tuple[Any, ...]]]] = {
    "new": (workspace(finalizers=[]), Known(), [(Hold,), (Start, 0, False)]),
    "new, another's finalizer is on it": (
        workspace(finalizers=["other/one"]),
        Known(),
        [(Hold,), (Start, 0, False)],
    ),
    "taken on and not begun": (workspace(), Known(), [(Start, 0, False)]),
    "its run is known to be there": (workspace(), Known(started=(1, 0)), []),
    "under way, seen by another watcher": (
        workspace(a_status(State.RUNNING, attempt=2)),
        Known(),
        [(Start, 2, False)],
    ),
    "under way, and known": (workspace(a_status(State.RUNNING)), Known(started=(1, 0)), []),
    "its run was lost and is planned again": (
        workspace(a_status(State.RUNNING, attempt=1)),
        Known(started=(1, 0)),
        [(Start, 1, False)],
    ),
    "its run was lost, and it is too early": (
        workspace(a_status(State.RUNNING, attempt=1)),
        Known(not_before=LATER),
        [],
    ),
    "its run was lost, and the pause is over": (
        workspace(a_status(State.RUNNING, attempt=1)),
        Known(not_before=NOW),
        [(Start, 1, False)],
    ),
    "edited while it is served": (
        workspace(a_status(State.READY, attempt=3), generation=2),
        Known(started=(1, 3)),
        [(Start, 0, True)],
    ),
    "edited while it runs": (
        workspace(a_status(State.RUNNING), generation=2),
        Known(started=(1, 0)),
        [(Start, 0, True)],
    ),
    "edited after it was stopped": (
        workspace(was_stopped(), generation=2),
        Known(started=(1, 0)),
        [(Start, 0, True)],
    ),
    "stopped before anything was begun": (
        workspace(**STOPPED_BY_ANNOTATION),
        Known(),
        [(Stop, 0)],
    ),
    "stopped while it is served": (
        workspace(a_status(State.READY, attempt=2), **STOPPED_BY_ANNOTATION),
        Known(started=(1, 2)),
        [(Stop, 2)],
    ),
    "was stopped": (workspace(was_stopped(), **STOPPED_BY_ANNOTATION), Known(), []),
    "was stopped, and edited since": (
        workspace(was_stopped(), generation=2, **STOPPED_BY_ANNOTATION),
        Known(),
        [],
    ),
    "resumed": (
        workspace(was_stopped(attempt=2)),
        Known(started=(1, 2)),
        [(Resume, 3, "Pending", []), (Start, 3, False)],
    ),
    "resumed, and it is too early": (
        workspace(was_stopped()),
        Known(not_before=LATER),
        [(Resume, 1, "Pending", [])],
    ),
    "deleted": (workspace(**DELETED), Known(), [(Release, 0)]),
    "deleted, a release was lost": (workspace(**DELETED), Known(releases=2), [(Release, 2)]),
    "deleted, and it is too early": (workspace(**DELETED), Known(not_before=LATER), []),
    "deleted, and not taken on": (workspace(finalizers=["other/one"], **DELETED), Known(), []),
    "deleted while it was stopped": (
        workspace(was_stopped(), **DELETED, **STOPPED_BY_ANNOTATION),
        Known(),
        [(Release, 0)],
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_done_follows_from_the_situation(situation: str) -> None:
    manifest, known, expected = SITUATIONS[situation]
    assert told(decide(manifest, known, NOW)) == expected


@pytest.mark.parametrize("state", [each for each in State if each.is_settled])
def test_of_what_is_settled_nothing_is_run_until_it_is_edited(state: State) -> None:
    settled = a_status(state)
    assert decide(workspace(settled), Known(), NOW) == ()
    assert told(decide(workspace(settled, generation=2), Known(), NOW)) == [(Start, 0, True)]


def test_the_run_is_of_the_workspace_as_it_is_now() -> None:
    [start] = decide(workspace(generation=7), Known(), NOW)
    assert isinstance(start, Start)
    assert (start.workspace.metadata.generation, start.workspace.metadata.uid) == (7, "1")


def broken(status: WorkspaceStatus | None = None, **meta: Any) -> Object:
    """A Workspace that breaks a rule which only we know."""
    manifest = workspace(status, **meta)
    del manifest["tuning"]
    return manifest


def test_one_that_breaks_a_rule_is_refused_once_and_not_held() -> None:
    [refuse] = decide(broken(finalizers=[]), Known(), NOW)
    assert isinstance(refuse, Refuse)
    accepted = refuse.status.condition(ConditionType.ACCEPTED)
    assert accepted
    assert (accepted.status, accepted.reason) == ("False", "InvalidWorkspace")
    assert (refuse.status.state, refuse.status.observed_generation) == (State.FAILED, 1)
    assert decide(broken(refuse.status, finalizers=[]), Known(), LATER) == ()


def test_an_edit_that_breaks_a_rule_is_refused_and_takes_nothing_from_what_serves() -> None:
    served = a_status(State.READY)
    served.set_condition(ConditionType.INFERENCE_READY, status="True", reason="R", now=EARLIER)
    [refuse] = decide(broken(served, generation=2), Known(started=(1, 0)), NOW)
    assert isinstance(refuse, Refuse)
    assert refuse.status.observed_generation == 2
    assert (refuse.status.served_generation, refuse.status.keeps_nodes) == (1, True)


def test_one_that_breaks_a_rule_can_be_deleted() -> None:
    assert told(decide(broken(**DELETED), Known(), NOW)) == [(Release, 0)]


def test_each_loss_is_followed_by_a_pause_twice_as_long_and_never_longer_than_ten_minutes() -> None:
    known, pauses = Known(), []
    for attempt in (0, 1, 2, 5, 6, 50):
        known.wait(attempt, backoff_s=BACKOFF_S, now=NOW)
        pauses.append((known.not_before - NOW).total_seconds())
    assert pauses == [10, 20, 40, 320, 600, 600]


def test_a_lost_run_leaves_another_attempt_of_its_generation() -> None:
    after = lost(a_status(State.RUNNING, attempt=9), generation=2, attempt=1)
    assert (after.observed_generation, after.attempt, after.state) == (2, 2, "Running")


def test_what_is_stopped_serves_nothing_and_holds_no_machine() -> None:
    running = a_status(State.READY)
    running.set_condition(ConditionType.INFERENCE_READY, status="True", reason="R")
    machine = HeldMachine(
        name="a", instance_type="t", capacity_type="spot", gpus=1, since="2026-05-01T11:00:00Z"
    )
    running.cost = Cost(machines=[machine])
    ended = stopped(running, generation=2, now=NOW)
    assert (ended.state, ended.observed_generation, ended.keeps_nodes) == ("Stopped", 2, False)
    assert [each.until for each in ended.cost.machines] == ["2026-05-01T12:00:00Z"]
    assert {c.reason for c in ended.conditions} == {"StopRequested"}


@pytest.mark.parametrize(
    ("namespaces", "expected"), [((), True), (("team", "other"), True), (("other",), False)]
)
def test_only_named_namespaces_are_ours(namespaces: tuple[str, ...], expected: bool) -> None:
    assert is_ours({"namespace": "team"}, namespaces) is expected


def test_those_under_way_that_were_not_asked_about_the_longest_come_first() -> None:
    manifests = [
        {"metadata": {"uid": uid}, "status": {"state": state}}
        for uid, state in (
            *(("recent", "Running"), ("ready", "Ready"), ("never", "Pending")),
            *(("old", "Running"), ("unknown", "Running")),
        )
    ]
    asked_s = {"recent": 9.0, "ready": 0.0, "never": 0.0, "old": 5.0}
    found = longest_unasked(manifests, asked_s, limit=2)
    assert [each["metadata"]["uid"] for each in found] == ["never", "old"]
