"""When a Workspace is retuned next, computed where it is asked: a status would be written for it.

By its annotations; and by Prefect, which starts the runs, where a person may have paused them.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flows.prefect_api import PrefectApi
from flows.schedules import RETUNE_FLOW
from tasks.contract.errors import InvalidWorkspace, PrefectUnavailable
from tasks.contract.retuning import RetuneSchedule, schedule_of
from tasks.contract.units import duration, utc_moment
from tasks.contract.workspace import Workspace

# A person waits.
_ANSWER_S = 5.0


def next_by_annotations(annotations: Mapping[str, str], now: datetime) -> str:
    """When these have a Workspace retuned next, in a few words; empty where they never do."""
    schedule = _schedule(annotations)
    return _next(schedule, now) if schedule else ""


async def next_retuning(
    workspace: Workspace, *, pool: str, prefect: Mapping[str, str], unasked: str, now: datetime
) -> str:
    """When it is retuned next, in one line, as far as Prefect can be asked; empty = only if asked.

    Args: pool: by which the deployment is called. prefect: PREFECT_API_URL and its login; empty =
    it is not known where. unasked: what to say then.
    """
    schedule = _schedule(workspace.metadata.annotations) if workspace.tuning else None
    if schedule is None:
        return ""
    told = f"{_next(schedule, now)} ({schedule})"
    if not prefect.get("PREFECT_API_URL"):
        return f"{told}; {unasked}"
    try:
        async with asyncio.timeout(_ANSWER_S), PrefectApi(prefect, waits_s=()) as api:
            kept = await _kept(api, pool, slug=str(workspace))
    except (PrefectUnavailable, TimeoutError):
        return f"{told}; Prefect, which starts it, did not answer at {prefect['PREFECT_API_URL']}"
    if kept is None:
        return f"{told}; Prefect, which starts it, does not have the schedule yet"
    if not kept["active"]:
        return f"paused in Prefect ({schedule})"
    anchor = kept["schedule"].get("anchor_date")
    moment = schedule.next_after(now, anchor=utc_moment(anchor) if anchor else None)
    if moment is None:
        return told
    return f"{_shown(moment)}, in {duration((moment - now).total_seconds())} ({schedule})"


def _schedule(annotations: Mapping[str, str]) -> RetuneSchedule | None:
    """The schedule; None where there is none, or one that is refused: a condition says why."""
    try:
        return schedule_of(annotations)
    except InvalidWorkspace:
        return None


async def _kept(api: PrefectApi, pool: str, *, slug: str) -> dict[str, Any] | None:
    """The Workspace's schedule as Prefect has it; None where it has none."""
    found = await api.schedules(await api.deployment_id(RETUNE_FLOW, pool))
    return next((each["body"] for each in found if each["slug"] == slug), None)


def _next(schedule: RetuneSchedule, now: datetime) -> str:
    moment = schedule.next_after(now)
    return _shown(moment) if moment else f"within {duration(schedule.every_s or 0)}"


def _shown(moment: datetime) -> str:
    """A moment with its weekday and its time zone: `Mon 2026-12-07 03:00 Europe/Berlin`."""
    zone = "UTC" if moment.tzinfo is UTC else moment.tzinfo
    return f"{moment:%a %Y-%m-%d %H:%M} {zone}"
