"""What of a status becomes Events, and which of them are warnings. Pure.

The reasons of warnings are stable, to alert on: a class of `errors.py` is the reason of its name,
and `deployments/chart/REASONS.md` says what each means.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tasks.contract.errors import NodeClaimNotReady, is_reason
from tasks.contract.status import (
    ENDED_ON_PURPOSE_REASONS,
    NOT_ASKED,
    NOT_REACHED,
    NOT_YET,
    Condition,
    WorkspaceStatus,
)

# KAITO's reason for a node whose GPUs Kubernetes does not count yet.
NODE_PLUGINS_NOT_READY = "NodePluginsNotReady"
_MADE_KINDS = ("ConfigMap", "Job", "Service", "StatefulSet")
# Of what a Workspace had, and that has left it.
_GONE_REASONS = (
    *(f"{kind}{fate}" for kind in _MADE_KINDS for fate in ("Deleted", "Changed")),
    "NodeClaimDeleted",
)
_TROUBLE_REASONS = (NODE_PLUGINS_NOT_READY, *_GONE_REASONS)
# By which a condition that is not True says why nothing is wrong.
_HARMLESS_REASONS = (
    "WorkspaceInferenceStatusPending",
    *(NOT_YET, NOT_ASKED, NOT_REACHED, *ENDED_ON_PURPOSE_REASONS),
)
# Of every node that is made: it takes minutes, and nothing is wrong.
_ROUTINE_REASONS = (NodeClaimNotReady.__name__,)


@dataclass(frozen=True, kw_only=True)
class News:
    """An Event to come: what happened to a Workspace, and whether a person should look."""

    reason: str
    message: str
    is_warning: bool


def is_trouble(condition: Condition) -> bool:
    """Whether a condition says that something is wrong, and not only that it is not there yet."""
    is_known = is_reason(condition.reason) or condition.reason in _TROUBLE_REASONS
    is_wrong = is_known and condition.reason not in _ROUTINE_REASONS
    return condition.is_failure or (condition.status == "False" and is_wrong)


def known_reason(reason: str) -> str:
    """The reason, if it is one of ours, and else `Other`: of ours there is a bounded number."""
    others = ("", *_TROUBLE_REASONS, *_HARMLESS_REASONS)
    return reason if reason in others or is_reason(reason) else "Other"


def news(before: Collection[Condition], after: Sequence[Condition]) -> list[News]:
    """An Event for each cause for which conditions have turned; nothing for those that stay."""
    known = {(c.type, c.status, c.reason) for c in before}
    turned: dict[tuple[str, str], list[Condition]] = {}
    for condition in after:
        is_new = (condition.type, condition.status, condition.reason) not in known
        if is_new and not condition.says_nothing:
            turned.setdefault((condition.status, condition.message), []).append(condition)
    return [_told(conditions) for conditions in turned.values()]


def _told(conditions: Sequence[Condition]) -> News:
    """The news of conditions that turned for one cause."""
    last = conditions[-1]
    types = " and ".join(condition.type for condition in conditions)
    return News(
        reason=last.reason,
        message=f"{types} {'is' if len(conditions) == 1 else 'are'} {last.status}: {last.message}",
        is_warning=any(map(is_trouble, conditions)),
    )


def status_news(before: WorkspaceStatus, after: WorkspaceStatus) -> list[News]:
    """An Event for all of that, and for a retuning or a promotion that has failed."""
    told = after.adapters
    found = news(before.conditions, after.conditions)
    if told.reason and told.told != before.adapters.told:
        what = told.told_what
        message = what[:1].upper() + what[1:]
        found.append(News(reason=told.reason, message=message, is_warning=True))
    return found
