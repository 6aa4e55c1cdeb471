"""Conditions move as Kubernetes' do."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tasks.contract.artifacts import Endpoint, PublishedImage, Tuned
from tasks.contract.errors import RunInProgress
from tasks.contract.programs.tuning import HeldOut
from tasks.contract.status import (
    AdapterRun,
    Condition,
    ConditionType,
    Progress,
    State,
    WorkspaceStatus,
    fresh_status,
    status_of,
)

CRDS = Path(__file__).parents[2] / "deployments" / "crds"
EARLY = datetime(2026, 1, 1, tzinfo=UTC)
LATE = datetime(2026, 1, 2, tzinfo=UTC)


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    status = WorkspaceStatus()
    for now in (EARLY, LATE):
        status.set_condition(ConditionType.ACCEPTED, status="True", reason="A", now=now)
    condition = status.condition(ConditionType.ACCEPTED)
    assert condition is not None
    assert condition.last_transition_time == "2026-01-01T00:00:00Z"


def test_a_condition_gets_a_new_time_when_its_status_moves() -> None:
    status = WorkspaceStatus()
    status.set_condition(ConditionType.ACCEPTED, status="False", reason="A", now=EARLY)
    status.set_condition(ConditionType.ACCEPTED, status="True", reason="B", now=LATE)
    condition = status.condition(ConditionType.ACCEPTED)
    assert condition is not None
    assert (condition.reason, condition.last_transition_time) == ("B", "2026-01-02T00:00:00Z")
    assert len(status.conditions) == 1


def test_the_reason_is_that_of_the_first_condition_that_is_not_true() -> None:
    status = WorkspaceStatus()
    status.set_condition(ConditionType.ACCEPTED, status="True", reason="Accepted")
    status.set_condition(ConditionType.RESOURCE_READY, status="False", reason="NoNode")
    assert status.reason == "NoNode"


def test_a_status_is_written_in_kubernetes_spelling_and_read_back() -> None:
    status = fresh_status(3)
    status.set_condition(ConditionType.ACCEPTED, status="True", reason="Accepted", now=EARLY)
    text = status.model_dump_json(by_alias=True)
    assert '"lastTransitionTime":"2026-01-01T00:00:00Z"' in text
    assert WorkspaceStatus.model_validate_json(text) == status


def test_the_reason_and_the_progress_are_written_as_text_too() -> None:
    status = WorkspaceStatus(progress=Progress(step_name="tune", step=3, steps=10, loss=1.5))
    status.set_condition(ConditionType.RESOURCE_READY, status="False", reason="NoNode")
    written = status.model_dump(by_alias=True)
    assert (written["reason"], written["progressText"]) == ("NoNode", "tune 3/10 loss 1.500")


def test_a_message_too_long_for_a_condition_is_cut() -> None:
    status = WorkspaceStatus()
    status.set_condition(ConditionType.ACCEPTED, status="False", reason="A", message="x" * 99999)
    assert len(status.conditions[0].message) == 32768


def test_the_history_keeps_the_last_ten_generations_each_once() -> None:
    status = WorkspaceStatus()
    for generation in [*range(1, 13), 12]:
        status.observed_generation = generation
        status.remember_image(f"sha256:{generation}", now=EARLY)
    assert [past.generation for past in status.history] == list(range(3, 13))


def test_attempts_are_counted_for_one_generation() -> None:
    earlier = WorkspaceStatus(observed_generation=3, attempt=2)
    assert fresh_status(3, earlier).attempt == 2
    assert fresh_status(4, earlier).attempt == 0


def test_the_history_goes_on_in_the_next_generation() -> None:
    earlier = WorkspaceStatus(observed_generation=3)
    earlier.remember_image("sha256:3", now=EARLY)
    assert fresh_status(4, earlier).history == earlier.history


def served(generation: int = 1, state: State = State.READY) -> WorkspaceStatus:
    """A status as a run leaves it whose server answers."""
    status = WorkspaceStatus(state=state, observed_generation=generation, worker_nodes=["gpu"])
    for kind in ConditionType:
        status.set_condition(kind, status="True", reason="R", now=EARLY)
    return status


def test_what_an_older_generation_serves_stays_while_a_newer_one_is_run() -> None:
    status = fresh_status(2, served())
    kept = {c.type for c in status.conditions if (c.status, c.observed_generation) == ("True", 1)}
    new = {c.type for c in status.conditions if (c.status, c.observed_generation) == ("Unknown", 2)}
    assert kept == {"NodeClaimReady", "NodesReady", "ResourceReady", "InferenceReady"}
    assert new == {"Accepted", "JobStarted", "WorkspaceSucceeded"}
    assert [c.type for c in status.conditions] == [*ConditionType]
    assert (status.served_generation, status.worker_nodes) == (1, ["gpu"])


@pytest.mark.parametrize("reason", ["StopRequested", "Stopped", "ServerReplaced", "Deleting"])
def test_of_a_server_that_was_ended_nothing_stays(reason: str) -> None:
    earlier = served()
    earlier.server_ended(reason=reason, message="m")
    status = fresh_status(2, earlier)
    assert (status.worker_nodes, status.served_generation) == ([], None)
    assert {c.reason for c in status.conditions} == {"NotYet"}


def test_a_server_that_is_not_ready_for_a_while_is_still_served() -> None:
    status = served()
    status.set_condition(
        ConditionType.INFERENCE_READY, status="False", reason="NodeLost", generation=1
    )
    assert fresh_status(2, status).served_generation == 1


@pytest.mark.parametrize(
    ("state", "is_served", "expected"),
    [
        (State.PENDING, False, True),
        (State.RUNNING, False, True),
        (State.READY, True, True),
        (State.NOT_READY, True, True),
        (State.FAILED, False, False),
        (State.FAILED, True, True),
        (State.STOPPED, False, False),
        (State.SUCCEEDED, False, False),
    ],
)
def test_nodes_are_kept_by_a_run_and_by_what_serves(
    state: State, is_served: bool, expected: bool
) -> None:
    status = served(state=state)
    if not is_served:
        status.server_ended(reason="Stopped", message="m")
    assert status.keeps_nodes is expected


def test_what_a_state_means_for_runs_and_nodes() -> None:
    def those(name: str) -> set[State]:
        return {state for state in State if getattr(state, name)}

    assert set(State) - those("is_settled") == {State.PENDING, State.RUNNING}
    assert those("ended_well") == {State.READY, State.SUCCEEDED}
    assert those("ended_badly") == {State.FAILED, State.STOPPED}
    assert those("is_of_server") == {State.READY, State.NOT_READY}
    assert set(State) - those("keeps_nodes") == {State.SUCCEEDED, State.FAILED, State.STOPPED}


def test_a_condition_is_true_only_when_it_is_there_and_says_so() -> None:
    status = WorkspaceStatus()
    assert not status.is_true(ConditionType.ACCEPTED)
    for value, expected in (("False", False), ("Unknown", False), ("True", True)):
        status.set_condition(ConditionType.ACCEPTED, status=value, reason="R")  # type: ignore[arg-type]
        assert status.is_true(ConditionType.ACCEPTED) is expected


def test_progress_is_one_line_of_what_is_known() -> None:
    progress = Progress(
        step_name="tune", phase="train", step=3, steps=4, loss=1.5, tokens_per_s=372.6, eta_s=240
    )
    assert str(progress) == "tune train 3/4 loss 1.500 373 tokens/s ETA 4 min"
    assert progress.percent == 75
    assert (str(Progress(step_name="push")), Progress(step_name="push").percent) == ("push", 0)
    assert str(Progress(phase="train", step=1, steps=2)) == ""


def test_image_and_endpoint_are_kept_by_the_next_run() -> None:
    earlier = WorkspaceStatus(observed_generation=1)
    earlier.endpoint = Endpoint(url="http://tuned.team.svc", model="tuned")
    earlier.image = PublishedImage(reference="r:1", digest="sha256:1", pushed=True, layout_dir="d")
    after = fresh_status(2, earlier)
    assert (after.endpoint, after.image) == (earlier.endpoint, earlier.image)


def at_work(status: WorkspaceStatus) -> WorkspaceStatus:
    """The same while a run makes another adapter for it."""
    status.adapter_run = AdapterRun(flow="retune", flow_run_id="1", since="2026-01-01T00:00:00Z")
    return status


@pytest.mark.parametrize(
    ("status", "older", "beside"),
    [
        (served(), False, False),
        (at_work(served()), False, True),
        (fresh_status(2, served()), True, True),
        (fresh_status(1), False, False),
        (at_work(fresh_status(1)), False, False),
    ],
    ids=["served", "retuned", "edited", "first run", "nothing serves"],
)
def test_what_serves_is_beside_a_run_that_makes_something_else(
    status: WorkspaceStatus, older: bool, beside: bool
) -> None:
    assert (status.serves_older, status.serves_beside) == (older, beside)


def test_a_server_that_makes_room_is_paused_and_served_still() -> None:
    status = served()
    assert not status.is_server_paused
    status.set_condition(ConditionType.INFERENCE_READY, status="False", reason="ServerPaused")
    assert status.is_server_paused
    assert not WorkspaceStatus().is_server_paused


@pytest.mark.parametrize(
    ("status", "generation", "found"),
    [
        (at_work(served()), 1, "retune is at work on it since 2026-01-01T00:00:00Z; try again"),
        (served(), 2, "the run of its generation 2 has not ended; try again"),
        (served(state=State.RUNNING), 1, "the run of its generation 1 has not ended"),
        (served(state=State.FAILED), 1, "it is Failed: ; see `kubectl describe workspace`"),
    ],
    ids=["at work", "edited", "running", "failed"],
)
def test_an_adapter_is_moved_only_where_the_run_of_its_generation_has_ended_well(
    status: WorkspaceStatus, generation: int, found: str
) -> None:
    with pytest.raises(RunInProgress, match=f"^to roll back; {found}"):
        status.expect_at_rest("to roll back", generation=generation, by="2")


@pytest.mark.parametrize("status", [served(), at_work(served())], ids=["served", "its own run"])
def test_a_workspace_at_rest_may_be_given_another_adapter(status: WorkspaceStatus) -> None:
    status.expect_at_rest("to roll back", generation=1, by="1")


def test_the_pods_of_what_serves_may_be_of_an_older_generation() -> None:
    status = served(generation=2)
    assert status.server_generation == 2
    status.server_made_in = 1
    assert (status.served_generation, status.server_generation) == (2, 1)
    assert fresh_status(3, status).server_generation == 1
    status.server_ended(reason="Stopped", message="m")
    assert status.server_generation is None
    assert fresh_status(3, status).server_made_in is None


def test_what_was_tuned_is_remembered_with_its_results_until_something_else_is() -> None:
    status = WorkspaceStatus(observed_generation=3)
    status.held_out = HeldOut(rows=4, loss_before=2.0, loss_after=1.0)
    image = PublishedImage(reference="r:1", digest="sha256:1", pushed=True)
    status.remember_tuned("abc", image)
    known = fresh_status(4, status).tuned
    assert known == Tuned(training="abc", generation=3, image=image, held_out=status.held_out)


def test_a_generation_that_tunes_nothing_has_the_results_of_the_one_that_did() -> None:
    image = PublishedImage(reference="r:1", digest="sha256:1", pushed=True)
    held_out = HeldOut(rows=4, loss_before=2.0, loss_after=1.0)
    status = fresh_status(4)
    status.keep_tuned(Tuned(training="abc", generation=3, image=image, held_out=held_out))
    assert (status.image, status.held_out) == (image, held_out)
    assert status.tuned is not None
    assert status.tuned.is_of(3)
    assert status.tuned.is_of(4)
    assert [(past.generation, past.digest) for past in status.history] == [(4, "sha256:1")]


def test_a_workspace_that_no_run_has_told_of_has_an_empty_status() -> None:
    for manifest in (None, {}, {"status": None}):
        assert status_of(manifest) == WorkspaceStatus()
    assert status_of({"status": {"state": "Ready", "attempt": 3}}).attempt == 3


def conditions_of(status: WorkspaceStatus) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in status.conditions}


def test_a_run_begins_with_a_condition_of_each_type_and_gives_no_reason_for_waiting() -> None:
    status = fresh_status(1)
    assert conditions_of(status) == dict.fromkeys(ConditionType, ("Unknown", "NotYet"))
    assert all(c.message for c in status.conditions)
    assert (status.reason, status.served_generation, status.keeps_nodes) == ("", None, True)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [("is_tuned", "JobStarted"), ("is_served", "InferenceReady")],
)
def test_what_is_not_asked_for_is_false_from_the_beginning(asked: str, kind: str) -> None:
    status = fresh_status(1, is_tuned=asked != "is_tuned", is_served=asked != "is_served")
    assert conditions_of(status)[kind] == ("False", "NotAsked")
    assert list(conditions_of(status).values()).count(("Unknown", "NotYet")) == 6
    assert (status.reason, status.served_generation) == ("", None)


def test_what_a_refused_run_did_not_come_to_is_false_too() -> None:
    status = fresh_status(1)
    status.end_without(State.FAILED, reason="SecretNotFound", message="m", is_refusal=True)
    found = conditions_of(status)
    refused = {kind for kind, told in found.items() if told == ("False", "SecretNotFound")}
    assert refused == {"Accepted", "WorkspaceSucceeded"}
    assert set(found.values()) == {("False", "SecretNotFound"), ("False", "NotReached")}
    assert (status.reason, status.served_generation) == ("SecretNotFound", None)
    assert [c.type for c in status.conditions if c.is_failure] == sorted(refused)


def test_of_a_run_that_ends_before_its_checks_nothing_is_said_about_them() -> None:
    status = fresh_status(1)
    status.end_without(State.STOPPED, reason="Stopped", message="m")
    assert conditions_of(status)["Accepted"] == ("Unknown", "NotYet")
    assert not any(c.is_failure for c in status.conditions)


def test_a_condition_of_somebody_else_is_left_alone() -> None:
    theirs = Condition(type="Theirs", status="Unknown", reason="NotYet")
    status = WorkspaceStatus(conditions=[theirs, *fresh_status(1).conditions])
    status.end_without(State.FAILED, reason="DiskFull", message="m")
    assert status.conditions[0] == theirs


def test_what_an_older_generation_serves_outlives_a_run_that_fails() -> None:
    status = fresh_status(2, served())
    status.end_without(State.FAILED, reason="DiskFull", message="m")
    assert (status.served_generation, status.keeps_nodes, status.reason) == (1, True, "DiskFull")
    assert conditions_of(status)["JobStarted"] == ("False", "NotReached")


def test_a_workspace_that_no_run_has_looked_at_shows_what_a_run_begins_with() -> None:
    crd = yaml.safe_load((CRDS / "kaito.sh_workspaces.yaml").read_text(encoding="utf-8"))
    for version in crd["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]["properties"]["status"]
        shown = WorkspaceStatus.model_validate(schema["default"])
        begun = fresh_status(0)
        told = {c.type: (c.status, c.reason, c.message) for c in begun.conditions}
        assert {c.type: (c.status, c.reason, c.message) for c in shown.conditions} == told
        assert (shown.served_generation, shown.observed_generation) == (None, 0)


@pytest.mark.parametrize("written", [{"state": "Banana"}, {"conditions": [{"type": "Accepted"}]}])
def test_a_status_that_nobody_of_ours_can_have_written_tells_nothing(written: object) -> None:
    assert status_of({"status": written}) == WorkspaceStatus()
