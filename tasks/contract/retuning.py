"""When a Workspace is tuned anew by itself, and what becomes of its candidates. Pure.

Read from annotations that are edited while the model serves, and that restart and retrain nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tasks.contract import cron
from tasks.contract.canary import CANARY_ANNOTATION, Canary, parse_canary
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.gate_command import gate_command_of
from tasks.contract.judge import judge_of
from tasks.contract.units import duration, seconds_of
from tasks.contract.workspace import Workspace

RETUNE_SCHEDULE_ANNOTATION = "kaitoflow.io/retune-schedule"
RETUNE_ON_ANNOTATION = "kaitoflow.io/retune-on"
PROMOTION_ANNOTATION = "kaitoflow.io/promotion"
APPROVAL_TIMEOUT_ANNOTATION = "kaitoflow.io/approval-timeout"
HISTORY_LIMIT_ANNOTATION = "kaitoflow.io/history-limit"

Promotion = Literal["auto", "approve", "canary"]

_HISTORY_LIMIT = 10
_DATA_LOOK_S = 3600.0
_APPROVAL_TIMEOUT = "7d"
_LEAST_S, _MOST_S = 10.0, 366 * 86400.0
_FIX = (
    'write five fields of cron and, if you like, a time zone, as "0 3 * * 1 Europe/Berlin", or how '
    'often, from 10s to 366d, as "6h" or "P1D"'
)


@dataclass(frozen=True, kw_only=True)
class RetuneSchedule:
    """When the data is looked at: a cron line in a time zone, or every so many seconds."""

    cron: str = ""
    timezone: str = "UTC"
    every_s: float | None = None

    def __str__(self) -> str:
        """The schedule as it is told: `every 6 h`, or `0 3 * * 1 Europe/Berlin`."""
        return f"every {duration(self.every_s)}" if self.every_s else f"{self.cron} {self.timezone}"

    def next_after(self, now: datetime, *, anchor: datetime | None = None) -> datetime | None:
        """When the data is looked at next, in the schedule's time zone; None = that is not known.

        Args: anchor: a moment from which intervals are counted; None = it is not known.
        """
        if self.every_s:
            if anchor is None:
                return None
            passed = (now - anchor).total_seconds() // self.every_s + 1
            return (anchor + timedelta(seconds=passed * self.every_s)).astimezone(UTC)
        here = now.astimezone(ZoneInfo(self.timezone))
        found = cron.next_time(self.cron, here.replace(tzinfo=None))
        return found and found.replace(tzinfo=here.tzinfo, fold=here.fold)


@dataclass(frozen=True, kw_only=True)
class Retuning:
    """What the annotations ask for.

    schedule: None = a person starts each retuning. approval_timeout_s: how long a candidate waits
    for a person's word. canary: how one is tried out where promotion says so.
    history_limit: how many adapters are told of.
    """

    schedule: RetuneSchedule | None
    promotion: Promotion
    approval_timeout_s: float
    canary: Canary
    history_limit: int


def asks_for_retuning(annotations: Mapping[str, str]) -> bool:
    """Whether a Workspace with these annotations may ask for a schedule."""
    return not {RETUNE_SCHEDULE_ANNOTATION, RETUNE_ON_ANNOTATION}.isdisjoint(annotations)


def retuning_of(workspace: Workspace) -> Retuning:
    """How a Workspace is retuned; that it may be is `expect_retunable`'s to say.

    Raises: InvalidWorkspace.
    """
    annotations = workspace.metadata.annotations
    limit = annotations.get(HISTORY_LIMIT_ANNOTATION, str(_HISTORY_LIMIT))
    if not limit.isdecimal():
        raise InvalidWorkspace(
            f"annotation {HISTORY_LIMIT_ANNOTATION} is {limit!r}",
            "that is no whole number",
            "write one from 1 to 50",
        )
    promotion = cast("Promotion", annotations.get(PROMOTION_ANNOTATION, "auto"))
    return Retuning(
        schedule=schedule_of(annotations),
        promotion=promotion,
        approval_timeout_s=_approval_timeout_s(annotations),
        canary=parse_canary(annotations.get(CANARY_ANNOTATION)),
        history_limit=int(limit),
    )


def _approval_timeout_s(annotations: Mapping[str, str]) -> float:
    text = annotations.get(APPROVAL_TIMEOUT_ANNOTATION, _APPROVAL_TIMEOUT)
    timeout_s = seconds_of(text.strip())
    if timeout_s is None or not _LEAST_S <= timeout_s <= _MOST_S:
        raise InvalidWorkspace(
            f"annotation {APPROVAL_TIMEOUT_ANNOTATION} is {text!r}",
            "that is no time from 10s to 366d",
            f'write one, as "{_APPROVAL_TIMEOUT}", "36h" or "P1D"',
        )
    return timeout_s


def tries_candidates_out(workspace: Workspace) -> bool:
    """Whether candidates are to answer a share of the requests beside what serves."""
    is_canary = workspace.metadata.annotations.get(PROMOTION_ANNOTATION) == "canary"
    return is_canary and workspace.tuning is not None and workspace.is_served


def moves_adapters(workspace: Workspace) -> str:
    """The word by which another adapter is to serve in the place of what does; "" = none."""
    if workspace.tuning is None or not workspace.is_served:
        return ""
    moving = (PROMOTION_ANNOTATION, RETUNE_SCHEDULE_ANNOTATION, RETUNE_ON_ANNOTATION)
    return next((each for each in moving if each in workspace.metadata.annotations), "")


def schedule_of(annotations: Mapping[str, str]) -> RetuneSchedule | None:
    """When the data of a Workspace with these annotations is looked at; None = only if asked.

    Raises: InvalidWorkspace.
    """
    text = annotations.get(RETUNE_SCHEDULE_ANNOTATION)
    if text is not None:
        return parse_schedule(text)
    return RetuneSchedule(every_s=_DATA_LOOK_S) if RETUNE_ON_ANNOTATION in annotations else None


def expect_retunable(workspace: Workspace) -> None:
    """Nothing, if what the annotations ask of retuning can be done with the Workspace.

    Raises: InvalidWorkspace, ImageReferenceInvalid.
    """
    asked = retuning_of(workspace)
    judge_of(workspace.metadata.annotations)
    gate_command_of(workspace.metadata.annotations)
    if asked.schedule and workspace.tuning:
        expect_own_images(workspace)


def expect_own_images(workspace: Workspace) -> None:
    """Nothing, if each of the Workspace's adapters can have an image of its own.

    Raises: InvalidWorkspace.
    """
    if not (workspace.tuning and workspace.tuning.output.image):
        raise InvalidWorkspace(
            f"{workspace} was to be retuned",
            "each adapter is kept as an image of its own, and it names no image to write to",
            "set tuning.output.image",
        )


def parse_schedule(text: str) -> RetuneSchedule:
    """The schedule that a text spells.

    Raises: InvalidWorkspace.
    """
    every_s = seconds_of(text.strip())
    if every_s is not None:
        if not _LEAST_S <= every_s <= _MOST_S:
            raise _wrong(text, f"{every_s:g} seconds are too short or too long")
        return RetuneSchedule(every_s=every_s)
    fields = text.split()
    if len(fields) not in (5, 6):
        raise _wrong(text, f"it has {len(fields)} fields and is no interval")
    if found := cron.fault(fields[:5]):
        raise _wrong(text, found)
    zone = fields[5] if len(fields) > 5 else "UTC"
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _wrong(text, f"there is no time zone {zone!r}") from None
    return RetuneSchedule(cron=" ".join(fields[:5]), timezone=zone)


def _wrong(text: str, found: str) -> InvalidWorkspace:
    return InvalidWorkspace(f"annotation {RETUNE_SCHEDULE_ANNOTATION} is {text!r}", found, _FIX)
