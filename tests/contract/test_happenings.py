"""What happens to a Workspace is told once, when its status turns."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from tasks.contract.adapter_history import AdapterRecord, Fate, Outcome
from tasks.contract.artifacts import PublishedImage
from tasks.contract.happenings import Happening, event_body, happenings, leak_body
from tasks.contract.status import (
    ConditionType,
    FinishedStep,
    Progress,
    State,
    WorkspaceStatus,
    fresh_status,
)
from tasks.contract.training_policy import AT_MOST
from tasks.contract.workspace import ObjectMeta

Change = Callable[[WorkspaceStatus], None]


def told(change: Change, before: WorkspaceStatus | None = None) -> list[Happening]:
    """What a change of a status, by default of a run that begins, is told as."""
    status = before or fresh_status(1)
    after = status.model_copy(deep=True)
    change(after)
    return [each.what for each in happenings(status, after)]


def setting(
    kind: ConditionType, status: Literal["True", "False"], reason: str = "because"
) -> Change:
    def change(now: WorkspaceStatus) -> None:
        now.set_condition(kind, status=status, reason=reason, message="for a reason")

    return change


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (ConditionType.ACCEPTED, Happening.ACCEPTED),
        (ConditionType.NODE_CLAIM_READY, Happening.CLAIMED),
        (ConditionType.RESOURCE_READY, Happening.NODES_READY),
        (ConditionType.JOB_STARTED, Happening.TUNING),
        (ConditionType.INFERENCE_READY, Happening.SERVING),
        (ConditionType.WORKSPACE_SUCCEEDED, Happening.SUCCEEDED),
    ],
)
def test_a_condition_that_turns_true_is_told_once(kind: ConditionType, what: Happening) -> None:
    assert told(setting(kind, "True")) == [what]
    status = fresh_status(1)
    setting(kind, "True")(status)
    assert told(setting(kind, "True", "otherwise"), status) == []


def test_a_refusal_is_one_event_and_so_is_a_failure() -> None:
    def end(*, is_refusal: bool) -> Change:
        return lambda now: now.end_without(
            State.FAILED, reason="X", message="m", is_refusal=is_refusal
        )

    assert told(end(is_refusal=True)) == [Happening.REFUSED]
    assert told(end(is_refusal=False)) == [Happening.FAILED]


def test_who_stops_a_run_has_not_failed() -> None:
    def stop(now: WorkspaceStatus) -> None:
        now.end_without(State.STOPPED, reason="Stopped", message="m")

    assert told(stop) == [Happening.STOPPED]


def test_only_what_was_there_is_lost() -> None:
    assert told(setting(ConditionType.INFERENCE_READY, "False")) == []
    status = fresh_status(1)
    for kind in (ConditionType.RESOURCE_READY, ConditionType.INFERENCE_READY):
        setting(kind, "True")(status)
    assert told(setting(ConditionType.INFERENCE_READY, "False"), status) == [Happening.NOT_SERVING]
    assert told(setting(ConditionType.RESOURCE_READY, "False"), status) == [Happening.NODES_LOST]


def test_progress_is_no_event() -> None:
    def go_on(now: WorkspaceStatus) -> None:
        now.progress = Progress(step_name="tune", step=3, steps=10)

    assert told(go_on) == []


IMAGE = PublishedImage(reference="registry.example.com/a:1", digest="sha256:1")


@pytest.mark.parametrize(
    ("fate", "what"),
    [
        (Fate.WAITING, Happening.WAITING),
        (Fate.SERVING, Happening.PROMOTED),
        (Fate.KEPT_OUT, Happening.KEPT_OUT),
        (Fate.ON_TRIAL, Happening.ON_TRIAL),
    ],
)
def test_what_becomes_of_an_adapter_is_told_and_that_another_served_is_not(
    fate: Fate, what: Happening
) -> None:
    status = fresh_status(1)
    status.adapters.records = [AdapterRecord(number=1, image=IMAGE, fate=Fate.SERVING)]

    def decide(now: WorkspaceStatus) -> None:
        now.adapters.records[0].fate = Fate.SERVED
        now.adapters.records += [AdapterRecord(number=2, image=IMAGE, fate=fate, by="gate")]

    assert told(decide, status) == [what]


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (Outcome.RETUNING_FAILED, Happening.RETUNING_FAILED),
        (Outcome.PROMOTION_FAILED, Happening.PROMOTION_FAILED),
        (Outcome.SKIPPED, Happening.RETUNING_SKIPPED),
    ],
)
def test_a_retuning_that_changes_nothing_is_told_once_each_time(
    outcome: Outcome, what: Happening
) -> None:
    def come_to(now: WorkspaceStatus) -> None:
        now.adapters.tell("it is so", NOW, outcome=outcome)

    status = fresh_status(1)
    assert told(come_to, status) == [what]
    come_to(status)
    assert told(come_to, status) == []
    assert told(lambda now: now.adapters.tell("promoted: better", NOW), status) == []


def test_a_failed_retuning_is_told_by_its_reason_and_words() -> None:
    after = fresh_status(1)
    said = "retuning failed: JudgeUnavailable: it is away"
    after.adapters.tell(said, NOW, outcome=Outcome.RETUNING_FAILED, reason="JudgeUnavailable")
    [each] = happenings(fresh_status(1), after)
    assert (each.reason, each.message) == ("JudgeUnavailable", said)


def test_a_training_that_ends_as_its_budget_is_spent_is_told_once_though_it_ended_well() -> None:
    detail = f"loss 3 -> 2; ended early, it is kept: {AT_MOST} $5.00 was asked for; step 7"

    def finish(now: WorkspaceStatus) -> None:
        step = FinishedStep(name="tune", seconds=1, detail=detail, finished="2026-01-01T00:00:00Z")
        now.steps = [step]

    status = fresh_status(1)
    assert told(finish, status) == [Happening.BUDGET_SPENT]
    finish(status)
    assert told(finish, status) == []


def test_an_image_is_told_by_its_digest() -> None:
    def publish(now: WorkspaceStatus) -> None:
        now.image = IMAGE

    status = fresh_status(1)
    [each] = happenings(status, status.model_copy(update={"image": IMAGE}))
    assert each.what is Happening.PUBLISHED
    assert each.message == "registry.example.com/a:1@sha256:1"
    publish(status)
    assert told(publish, status) == []


def test_an_event_names_its_workspace_and_says_why() -> None:
    status = fresh_status(3)
    after = status.model_copy(deep=True)
    setting(ConditionType.ACCEPTED, "True", "Accepted")(after)
    [each] = happenings(status, after)
    body = event_body(ObjectMeta(name="a", namespace="team"), each, after)
    assert body["event"] == "kaitoflow.workspace.accepted"
    assert body["resource"]["prefect.resource.id"] == "kaitoflow.workspace.team.a"
    assert body["payload"]["message"] == "for a reason"
    assert (body["payload"]["reason"], body["payload"]["generation"]) == ("Accepted", 3)


def test_the_readme_names_each_event_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    table = text[text.index("| `kaitoflow.workspace.` |") :].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert set(re.findall(r"`([a-z-]+)`", " ".join(rows))) == set(Happening)


def test_a_machine_that_nobody_needs_is_told_by_its_name() -> None:
    assert leak_body("claim-1", reason="claim-without-workspace", message="still drains") == {
        "event": "kaitoflow.leak.found",
        "resource": {
            "prefect.resource.id": "kaitoflow.leak.claim-1",
            "prefect.resource.name": "claim-1",
        },
        "payload": {"reason": "claim-without-workspace", "message": "still drains"},
    }
