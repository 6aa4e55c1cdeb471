"""What happens to a Workspace, by names that are kept: of Prefect's events, and what acts on them.

Each is told once, when the status turns; what stays as it is tells nothing. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from tasks.contract.adapter_history import AdapterRecord, Fate, Outcome
from tasks.contract.errors import BudgetSpent
from tasks.contract.status import (
    ENDED_ON_PURPOSE_REASONS,
    Condition,
    ConditionType,
    WorkspaceStatus,
)
from tasks.contract.training_policy import AT_MOST
from tasks.contract.workspace import ObjectMeta

PREFIX = "kaitoflow.workspace"
LEAK_FOUND = "kaitoflow.leak.found"


class Happening(StrEnum):
    """The last part of an event's name; the README says of each when it comes."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    CLAIMED = "claimed"
    NODES_READY = "nodes-ready"
    NODES_LOST = "nodes-lost"
    TUNING = "tuning"
    PUBLISHED = "published"
    SERVING = "serving"
    NOT_SERVING = "not-serving"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    WAITING = "adapter-waiting"
    PROMOTED = "adapter-promoted"
    KEPT_OUT = "adapter-kept-out"
    ON_TRIAL = "adapter-on-trial"
    RETUNING_FAILED = "retuning-failed"
    RETUNING_SKIPPED = "retuning-skipped"
    PROMOTION_FAILED = "promotion-failed"
    BUDGET_SPENT = "budget-spent"


_TURNED_TRUE = {
    ConditionType.ACCEPTED: Happening.ACCEPTED,
    ConditionType.NODE_CLAIM_READY: Happening.CLAIMED,
    ConditionType.RESOURCE_READY: Happening.NODES_READY,
    ConditionType.JOB_STARTED: Happening.TUNING,
    ConditionType.INFERENCE_READY: Happening.SERVING,
    ConditionType.WORKSPACE_SUCCEEDED: Happening.SUCCEEDED,
}
# Of what was there; that it is not there yet is nothing that happens.
_WAS_TRUE = {
    ConditionType.RESOURCE_READY: Happening.NODES_LOST,
    ConditionType.INFERENCE_READY: Happening.NOT_SERVING,
}
_FATES = {
    Fate.WAITING: Happening.WAITING,
    Fate.SERVING: Happening.PROMOTED,
    Fate.KEPT_OUT: Happening.KEPT_OUT,
    Fate.ON_TRIAL: Happening.ON_TRIAL,
}
_OUTCOMES = {
    Outcome.RETUNING_FAILED: Happening.RETUNING_FAILED,
    Outcome.PROMOTION_FAILED: Happening.PROMOTION_FAILED,
    Outcome.SKIPPED: Happening.RETUNING_SKIPPED,
}


@dataclass(frozen=True, kw_only=True)
class Told:
    """One thing that has happened: its reason in a word, and in a sentence."""

    what: Happening
    reason: str
    message: str


def happenings(before: WorkspaceStatus, after: WorkspaceStatus) -> list[Told]:
    """What has happened between two statuses of a Workspace, in the order in which it does."""
    return [
        *_of_conditions(before, after),
        *_of_steps(before, after),
        *_of_adapters(before, after),
        *_of_retuning(before, after),
    ]


def _of_conditions(before: WorkspaceStatus, after: WorkspaceStatus) -> Iterator[Told]:
    known = {c.type: c for c in before.conditions}
    for condition in after.conditions:
        what = _what(known.get(condition.type), condition, after)
        if what:
            yield Told(what=what, reason=condition.reason, message=condition.message)


def _what(before: Condition | None, now: Condition, status: WorkspaceStatus) -> Happening | None:
    if before and (before.status, before.reason) == (now.status, now.reason):
        return None
    kind = ConditionType(now.type) if now.type in set(ConditionType) else None
    was_true = before is not None and before.status == "True"
    if kind is None or now.says_nothing:
        return None
    if now.status == "True":
        return None if was_true else _TURNED_TRUE.get(kind)
    if now.status == "False" and kind is ConditionType.ACCEPTED:
        return Happening.REFUSED
    if now.status == "False" and kind is ConditionType.WORKSPACE_SUCCEEDED:
        return _end(now, status)
    return _WAS_TRUE.get(kind) if was_true else None


def _end(now: Condition, status: WorkspaceStatus) -> Happening | None:
    """How a run has ended without what it was for; a refusal is told already."""
    accepted = status.condition(ConditionType.ACCEPTED)
    if accepted and accepted.status == "False":
        return None
    on_purpose = now.reason in ENDED_ON_PURPOSE_REASONS
    return Happening.STOPPED if on_purpose else Happening.FAILED


def _of_steps(before: WorkspaceStatus, after: WorkspaceStatus) -> Iterator[Told]:
    """Tell of a training that has ended before its end, since it may take no more."""
    known = {(step.name, step.finished) for step in before.steps}
    for step in after.steps:
        if (step.name, step.finished) not in known and AT_MOST in step.detail:
            yield Told(
                what=Happening.BUDGET_SPENT, reason=BudgetSpent.__name__, message=step.detail
            )


def _of_retuning(before: WorkspaceStatus, after: WorkspaceStatus) -> Iterator[Told]:
    told = after.adapters
    if told.outcome and told.told != before.adapters.told:
        reason = told.reason or told.outcome.value.capitalize()
        yield Told(what=_OUTCOMES[told.outcome], reason=reason, message=told.told_what)


def _of_adapters(before: WorkspaceStatus, after: WorkspaceStatus) -> Iterator[Told]:
    known = {record.number: record.fate for record in before.adapters.records}
    if after.image and (before.image is None or before.image.digest != after.image.digest):
        name = f"{after.image.reference}@{after.image.digest}"
        yield Told(what=Happening.PUBLISHED, reason="Published", message=name)
    for record in after.adapters.records:
        if record.fate in _FATES and known.get(record.number) != record.fate:
            yield Told(what=_FATES[record.fate], reason=record.by, message=_said(record))


def _said(record: AdapterRecord) -> str:
    if record.fate is Fate.WAITING:
        until = f" until {record.answer_by}" if record.answer_by else ""
        return f"adapter {record.number} waits for a word{until}: {record.why}".rstrip(": ")
    return f"adapter {record.number}: {record.why}"


def event_body(meta: ObjectMeta, told: Told, status: WorkspaceStatus) -> dict[str, Any]:
    """The event of Prefect's that tells of it."""
    return {
        "event": f"{PREFIX}.{told.what}",
        "resource": {
            "prefect.resource.id": f"{PREFIX}.{meta.namespace}.{meta.name}",
            "prefect.resource.name": str(meta),
            "kaitoflow.namespace": meta.namespace,
            "kaitoflow.name": meta.name,
        },
        "payload": {
            "reason": told.reason,
            "message": told.message,
            "state": status.state.value,
            "generation": status.observed_generation,
            "cost": str(status.cost.at(datetime.now(UTC))),
        },
    }


def leak_body(name: str, *, reason: str, message: str) -> dict[str, Any]:
    """The event of Prefect's that tells of a machine that nobody needs, and that stays."""
    return {
        "event": LEAK_FOUND,
        "resource": {
            "prefect.resource.id": f"kaitoflow.leak.{name}",
            "prefect.resource.name": name,
        },
        "payload": {"reason": reason, "message": message},
    }
