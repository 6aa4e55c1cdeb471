"""What the watcher does for a Workspace follows from the object, its status and what was done."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from flows.watcher.decide import (
    Action,
    Correct,
    Hold,
    Known,
    Refuse,
    Release,
    Repair,
    Resume,
    Start,
    Stop,
    decide,
    has_run,
    longest_unasked,
    lost,
    stopped,
)
from flows.watcher.owned import Around
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.repairs import Repairs
from tasks.contract.status import (
    AdapterRun,
    ConditionType,
    MadeObject,
    State,
    WorkspaceStatus,
)
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


def settled(state: State, *, attempt: int = 0) -> WorkspaceStatus:
    """A status with the conditions that belong to the state."""
    status = a_status(state, attempt=attempt)
    conditions = {ConditionType.WORKSPACE_SUCCEEDED: not state.ended_badly}
    if state.is_of_server:
        conditions[ConditionType.INFERENCE_READY] = state is State.READY
    for kind, is_true in conditions.items():
        value: Literal["True", "False"] = "True" if is_true else "False"
        status.set_condition(kind, status=value, reason="OutOfMemory", now=EARLIER)
    return status


def served(*, repairs: Repairs | None = None, attempt: int = 0) -> WorkspaceStatus:
    """The status of one that is served, by a Service web and nothing else."""
    status = settled(State.READY, attempt=attempt)
    status.objects = [MadeObject(kind="Service", name="web", digest="s")]
    status.repairs = repairs or Repairs()
    return status


def refused(reason: str, *, not_before: str = "") -> WorkspaceStatus:
    status = a_status(State.FAILED)
    status.set_condition(ConditionType.ACCEPTED, status="False", reason=reason, now=EARLIER)
    status.repairs = Repairs(not_before=not_before)
    return status


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
                reasons = {c.reason for c in status.conditions}
                found.append((Resume, status.attempt, status.state, reasons))
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
        [(Resume, 3, "Pending", {"NotYet"}), (Start, 3, False)],
    ),
    "resumed, and it is too early": (
        workspace(was_stopped()),
        Known(not_before=LATER),
        [(Resume, 1, "Pending", {"NotYet"})],
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


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("is_read", [True, False])
def test_what_was_stopped_and_has_a_server_is_stopped_again(
    generation: int, *, is_read: bool
) -> None:
    of = workspace if is_read else broken
    manifest = of(was_stopped(attempt=2), generation=generation, **STOPPED_BY_ANNOTATION)
    there = Around(objects={("StatefulSet", "web"): "s"})
    assert told(decide(manifest, Known(), NOW, there)) == [(Stop, 2)]
    left = Around(objects={("ConfigMap", "web"): "s", ("Service", "web"): "s"})
    for around in (left, Around()):
        assert decide(manifest, Known(), NOW, around) == ()


@pytest.mark.parametrize("state", [each for each in State if each.is_settled])
def test_of_what_is_settled_nothing_is_run_until_it_is_edited(state: State) -> None:
    status = settled(state)
    assert decide(workspace(status), Known(), NOW) == ()
    assert told(decide(workspace(status, generation=2), Known(), NOW)) == [(Start, 0, True)]


GONE = Around(objects={}, pods=[])
DUE, NOT_DUE = "2026-05-01T12:00:00Z", "2026-05-01T12:00:01Z"
# What a Workspace whose run has ended is, what is around it, and why it is run again, if it is.
AGAIN: dict[str, tuple[WorkspaceStatus, Around, str]] = {
    "all is there": (served(), Around(objects={("Service", "web"): "s"}), ""),
    "something is gone": (served(attempt=2), GONE, "repair: Service web deleted"),
    "something is gone again, too soon": (served(repairs=Repairs(not_before=NOT_DUE)), GONE, ""),
    "something is gone again": (
        served(repairs=Repairs(count=3, not_before=DUE)),
        GONE,
        "repair: Service web deleted",
    ),
    "it was stopped": (was_stopped(), GONE, ""),
    "it was cancelled": (settled(State.STOPPED), GONE, ""),
    "its status was emptied in part": (
        a_status(State.READY),
        Around(),
        "repair: the status was changed by hand",
    ),
    "a Secret was missing": (
        refused("SecretNotFound", not_before=DUE),
        Around(),
        "looked at again: SecretNotFound",
    ),
    "a Secret was missing a moment ago": (
        refused("SecretNotFound", not_before=NOT_DUE),
        Around(),
        "",
    ),
    "a Secret was missing, for an earlier version": (
        refused("SecretNotFound"),
        Around(),
        "looked at again: SecretNotFound",
    ),
    "its ConfigMap has come": (
        refused("ConfigMapNotFound", not_before=NOT_DUE),
        Around(changed=["ConfigMap training"]),
        "looked at again: ConfigMap training changed",
    ),
    "its ConfigMap was corrected": (
        refused("InvalidTuningConfig"),
        Around(changed=["ConfigMap training"]),
        "looked at again: ConfigMap training changed",
    ),
    "its ConfigMap was wrong": (refused("InvalidTuningConfig"), Around(), ""),
    "only an edit helps": (refused("UnknownPreset", not_before=DUE), Around(), ""),
}


def corrected(status: WorkspaceStatus, around: Around) -> WorkspaceStatus:
    """The status once what is seen is told, before anything else is done."""
    match decide(workspace(status), Known(), NOW, around):
        case (Correct(status=seen),):
            return seen
    return status


@pytest.mark.parametrize("situation", AGAIN)
def test_one_whose_run_has_ended_is_run_again_for_a_reason(situation: str) -> None:
    status, around, reason = AGAIN[situation]
    actions = decide(workspace(corrected(status, around)), Known(), NOW, around)
    found = [each for each in actions if isinstance(each, Repair)]
    assert [each.reason for each in found] == ([reason] if reason else [])
    for repair in found:
        assert (repair.status.attempt, repair.status.state) == (status.attempt + 1, "Pending")
        assert repair.status.repairs == status.repairs.begun(reason, NOW)


def test_what_serves_beside_a_refused_edit_is_restored_and_the_edit_is_not_run() -> None:
    revision = MadeObject(kind="ControllerRevision", name="kept", digest="r")
    status = served()
    status.objects.append(revision)
    status.state, status.observed_generation = State.FAILED, 2
    status.set_condition(ConditionType.ACCEPTED, status="False", reason="UnknownPreset")
    left = Around(objects={("ControllerRevision", "kept"): "r"}, pods=[])
    [correct] = decide(workspace(status, generation=2), Known(), NOW, left)
    assert isinstance(correct, Correct)
    [repair] = decide(workspace(correct.status, generation=2), Known(), NOW, left)
    assert isinstance(repair, Repair)
    assert repair.status.repairs.restores
    refused = repair.status.condition(ConditionType.ACCEPTED)
    assert refused
    assert (repair.status.state, refused.reason) == ("Pending", "UnknownPreset")
    assert repair.status.served_generation == 1
    [start] = decide(workspace(repair.status, generation=2), Known(), NOW, left)
    assert isinstance(start, Start)
    assert start.restores


def test_what_serves_beside_an_edit_that_nobody_can_read_is_restored_too() -> None:
    status = served()
    status.objects.append(MadeObject(kind="ControllerRevision", name="kept", digest="r"))
    left = Around(objects={("ControllerRevision", "kept"): "r"}, pods=[])
    seen: list[Action] = []
    for _ in range(4):
        [action] = decide(broken(status, generation=2), Known(), NOW, left)
        seen.append(action)
        assert not isinstance(action, Start | Stop | Hold | Release)
        status = action.status
        if isinstance(action, Repair):
            break
    assert [type(each) for each in seen] == [Refuse, Correct, Repair]
    assert status.repairs.restores
    [start] = decide(broken(status, generation=2), Known(), NOW, left)
    assert isinstance(start, Start)
    assert (start.restores, start.workspace.metadata.generation) == (True, 2)
    under_way = status.model_copy(update={"state": State.RUNNING})
    assert decide(broken(under_way, generation=2), Known(started=(2, 1)), NOW, left) == ()


def test_what_nobody_can_read_can_be_stopped_and_is_refused_again_afterwards() -> None:
    [refuse] = decide(broken(served(), generation=2), Known(), NOW)
    assert isinstance(refuse, Refuse)
    asked: Object = {"annotations": {STOPPED_ANNOTATION: "1"}}
    [stop] = decide(broken(refuse.status, generation=2, **asked), Known(), NOW)
    assert isinstance(stop, Stop)
    ended = stopped(refuse.status, generation=2, now=NOW)
    assert decide(broken(ended, generation=2, **asked), Known(), NOW) == ()
    [again] = decide(broken(ended, generation=2), Known(), NOW)
    assert isinstance(again, Refuse)
    assert decide(broken(again.status, generation=2), Known(), NOW) == ()


def test_what_was_stopped_while_something_older_was_restored_is_run_when_it_resumes() -> None:
    status = stopped(served(repairs=Repairs(restores=True)), generation=1, now=NOW)
    _, start = decide(workspace(status), Known(), NOW)
    assert isinstance(start, Start)
    assert not start.restores


@pytest.mark.parametrize(("was_restored", "expected"), [(False, [Repair]), (True, [])])
def test_what_serves_waits_for_no_failure_beside_it_but_for_the_last_time_it_was_restored(
    was_restored: bool, expected: list[type]
) -> None:
    status = served(repairs=Repairs(not_before=NOT_DUE, restores=was_restored))
    status.objects.append(MadeObject(kind="ControllerRevision", name="kept", digest="r"))
    status.state, status.observed_generation = State.FAILED, 2
    status.set_condition(ConditionType.ACCEPTED, status="False", reason="SecretNotFound")
    left = Around(objects={("ControllerRevision", "kept"): "r"}, pods=[])
    [correct] = decide(workspace(status, generation=2), Known(), NOW, left)
    assert isinstance(correct, Correct)
    found = decide(workspace(correct.status, generation=2), Known(), NOW, left)
    assert [type(each) for each in found] == expected


def test_a_repair_of_what_is_asked_for_is_a_run_of_it() -> None:
    [repair] = decide(workspace(corrected(served(), GONE)), Known(), NOW, GONE)
    assert isinstance(repair, Repair)
    assert not repair.status.repairs.restores


def test_what_was_to_be_restored_is_no_matter_of_a_newer_generation() -> None:
    before = a_status(State.FAILED, generation=1)
    before.repairs = Repairs(restores=True)
    assert lost(before, generation=1, attempt=1).repairs.restores
    assert not lost(before, generation=2, attempt=0).repairs.restores


def test_what_is_seen_is_told_before_a_repair_begins() -> None:
    told = corrected(served(), GONE)
    assert (told.state, told.attempt) == ("NotReady", 0)
    [repair] = decide(workspace(told), Known(), NOW, GONE)
    assert isinstance(repair, Repair)
    assert not repair.status.is_true(ConditionType.INFERENCE_READY)


def test_a_repair_that_a_watcher_has_only_written_down_is_begun_by_the_next() -> None:
    [repair] = decide(workspace(corrected(served(), GONE)), Known(started=(1, 0)), NOW, GONE)
    assert isinstance(repair, Repair)
    [start] = decide(workspace(repair.status), Known(), NOW, GONE)
    assert isinstance(start, Start)
    assert (start.attempt, start.reason) == (1, "repair: Service web deleted")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (WorkspaceStatus(), False),
        (a_status(State.RUNNING, generation=2), False),
        (a_status(State.READY, generation=2), True),
        (a_status(State.FAILED, generation=2), True),
        (a_status(State.RUNNING, generation=2, attempt=1), True),
        (a_status(State.RUNNING, generation=3), True),
        (a_status(State.READY, generation=1), False),
    ],
)
def test_a_run_that_has_ended_is_lost_when_its_status_does_not_say_so(
    status: WorkspaceStatus, expected: bool
) -> None:
    assert has_run(status, generation=2, attempt=0) is expected


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
    assert not refuse.status.is_true(ConditionType.WORKSPACE_SUCCEEDED)
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


def test_nothing_begins_beside_a_run_on_an_adapter_until_an_edit_ends_it() -> None:
    status = settled(State.READY)
    status.adapter_run = AdapterRun(flow="retune-workspace", flow_run_id="1", since="now")
    gone = Around(objects={}, pods=(), nodes={})
    status.objects = [MadeObject(kind="Service", name="tuned", digest="d")]
    assert decide(workspace(status), Known(), NOW, gone) == ()
    assert told(decide(workspace(status, generation=2), Known(), NOW, gone)) == [(Start, 0, True)]
    assert stopped(status, generation=1, now=NOW).adapter_run is None


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
