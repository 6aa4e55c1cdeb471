"""What becomes an Event, what of it is a warning, and that every reason is documented."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.adapter_history import Outcome
from tasks.contract.errors import Failed, KaitoflowError, Refused, _tree
from tasks.contract.news import (
    _HARMLESS_REASONS,
    _TROUBLE_REASONS,
    NODE_PLUGINS_NOT_READY,
    is_trouble,
    known_reason,
    news,
    status_news,
)
from tasks.contract.status import ConditionType, State, WorkspaceStatus, fresh_status

ROOT = Path(__file__).parents[2]
REASONS = ROOT / "deployments" / "chart" / "REASONS.md"


@pytest.mark.parametrize(
    ("kind", "value", "reason", "expected"),
    [
        (ConditionType.ACCEPTED, "False", "ConfigMapNotFound", True),
        (ConditionType.WORKSPACE_SUCCEEDED, "False", "TrainingDiverged", True),
        (ConditionType.WORKSPACE_SUCCEEDED, "False", "SomethingOfLater", True),
        (ConditionType.WORKSPACE_SUCCEEDED, "False", "Stopped", False),
        (ConditionType.WORKSPACE_SUCCEEDED, "False", "Deleting", False),
        (ConditionType.WORKSPACE_SUCCEEDED, "True", "workspaceSucceeded", False),
        (ConditionType.NODES_READY, "False", "NodeNotReady", True),
        (ConditionType.NODES_READY, "False", "NodeClaimNotReady", False),
        (ConditionType.RESOURCE_READY, "False", "InsufficientCapacity", True),
        (ConditionType.RESOURCE_READY, "False", NODE_PLUGINS_NOT_READY, True),
        (ConditionType.INFERENCE_READY, "False", "NodeLost", True),
        (ConditionType.INFERENCE_READY, "False", "ServiceDeleted", True),
        (ConditionType.INFERENCE_READY, "False", "WorkspaceInferenceStatusPending", False),
    ],
)
def test_what_is_wrong_is_a_warning_and_what_is_only_under_way_is_not(
    kind: ConditionType, value: Any, reason: str, expected: bool
) -> None:
    status = fresh_status(1)
    status.set_condition(kind, status=value, reason=reason, message="m")
    found = status.condition(kind)
    assert found
    assert is_trouble(found) is expected
    [told] = news(fresh_status(1).conditions, status.conditions)
    assert (told.reason, told.is_warning) == (reason, expected)


def test_what_no_run_came_to_is_no_news() -> None:
    assert news([], fresh_status(1, is_tuned=False).conditions) == []
    status = fresh_status(1)
    status.end_without(State.FAILED, reason="DiskFull", message="m")
    assert [each.reason for each in news([], status.conditions)] == ["DiskFull"]


def test_a_refusal_is_one_event() -> None:
    status = WorkspaceStatus()
    status.end_without(State.FAILED, reason="SecretNotFound", message="m", is_refusal=True)
    [told] = news([], status.conditions)
    assert told.message == "Accepted and WorkspaceSucceeded are False: m"


def test_every_reason_of_trouble_is_documented_with_what_it_means() -> None:
    """A class that is new, or means something else now, is written down where alerts are made."""
    expected = {
        f"| `{name}` | {_fate(kind)} | {_meaning(kind)} |"
        for name, kind in _tree(KaitoflowError).items()
        if kind.__module__ == KaitoflowError.__module__
        and kind not in (KaitoflowError, Refused, Failed)
    }
    rows = re.findall(r"^\| `\w+` \| (?:refused|failed).*$", REASONS.read_text(), re.MULTILINE)
    assert (expected - set(rows), set(rows) - expected) == (set(), set()), "to add, to remove"
    assert rows == sorted(rows)


def test_every_other_reason_is_documented_too() -> None:
    text = REASONS.read_text()
    assert [
        each for each in (*_TROUBLE_REASONS, *_HARMLESS_REASONS) if f"`{each}`" not in text
    ] == []


def test_a_reason_of_somebody_else_is_told_as_other() -> None:
    for reason in ("", "DiskFull", "NotYet", "ServiceDeleted", "Stopped"):
        assert known_reason(reason) == reason
    assert known_reason("HandMade") == "Other"


def _fate(kind: type[KaitoflowError]) -> str:
    again = ", looked at again" if kind.may_pass else ""
    return f"{'refused' if issubclass(kind, Refused) else 'failed'}{again}"


def _meaning(kind: type[KaitoflowError]) -> str:
    assert kind.__doc__
    return kind.__doc__.splitlines()[0].removesuffix(".")


def test_a_retuning_that_has_failed_is_a_warning_once_and_a_skipped_one_is_none() -> None:
    now, before = datetime(2026, 1, 1, tzinfo=UTC), fresh_status(1)
    after = before.model_copy(deep=True)
    said = "retuning failed: JudgeUnavailable: it is away"
    after.adapters.tell(said, now, outcome=Outcome.RETUNING_FAILED, reason="JudgeUnavailable")
    [told] = status_news(before, after)
    assert (told.reason, told.is_warning) == ("JudgeUnavailable", True)
    assert told.message == "Retuning failed: JudgeUnavailable: it is away"
    assert status_news(after, after) == []
    later = after.model_copy(deep=True)
    later.adapters.tell("skipped: the same", now, outcome=Outcome.SKIPPED)
    assert status_news(after, later) == []
