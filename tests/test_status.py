"""Conditions move as Kubernetes' do."""

from datetime import UTC, datetime

from tasks.status import ConditionType, WorkspaceStatus, fresh_status

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
