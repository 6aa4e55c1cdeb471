"""The schedules by which Workspaces are retuned: in Prefect, as their annotations ask for.

Looked at again and again, on one machine by `kaitoflow server` and on a cluster by the watcher: so
a Prefect server that has lost its database has them again, and one of a Workspace that is gone, or
that asks for none, goes. Whether one is paused is a person's to say in Prefect's UI, and stays so.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flows.prefect_api import PrefectApi
from tasks.contract.errors import InvalidWorkspace, KaitoflowError
from tasks.contract.retuning import RetuneSchedule, expect_retunable, retuning_of
from tasks.contract.workspace import Workspace

logger = logging.getLogger(__name__)

RETUNE_FLOW, PROMOTE_FLOW = "retune-workspace", "promote-adapter"
_LOOK_AGAIN_S = 5.0

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class There:
    """A schedule that Prefect has; slug: the Workspace's namespace/name."""

    id: UUID
    slug: str
    body: Body


@dataclass(frozen=True, kw_only=True)
class Add:
    """Have a schedule that is not there, under way at once."""

    body: Body


@dataclass(frozen=True, kw_only=True)
class Change:
    """Have another time for a schedule, paused or not as it is."""

    id: UUID
    body: Body


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Have a schedule no more."""

    id: UUID
    slug: str


def wanted_bodies(workspaces: Iterable[Workspace]) -> dict[str, Body]:
    """What Prefect is to be told of each Workspace that asks for a schedule, by its slug.

    One whose annotations are refused has none; its condition says why.
    """
    found: dict[str, Body] = {}
    for workspace in workspaces:
        try:
            expect_retunable(workspace)
            schedule = retuning_of(workspace).schedule
        except InvalidWorkspace:
            continue
        if schedule and workspace.tuning:
            meta = workspace.metadata
            parameters = {"namespace": meta.namespace, "name": meta.name}
            found[str(workspace)] = {"schedule": _when(schedule), "parameters": parameters}
    return found


def _when(schedule: RetuneSchedule) -> dict[str, Any]:
    if schedule.every_s:
        return {"interval": schedule.every_s}
    return {"cron": schedule.cron, "timezone": schedule.timezone}


def changes(wanted: Mapping[str, Body], there: Iterable[There]) -> list[Add | Change | Remove]:
    """What makes those that are there the ones that are wanted; nothing where they are."""
    told: list[Add | Change | Remove] = []
    missing = dict(wanted)
    for each in there:
        body = missing.pop(each.slug, None)
        if body is None:
            told.append(Remove(id=each.id, slug=each.slug))
        elif any(not _says(each.body.get(name), part) for name, part in body.items()):
            told.append(Change(id=each.id, body=body))
    return told + [Add(body={"slug": slug, **body}) for slug, body in missing.items()]


def _says(there: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether Prefect has all of it; it adds words of its own, such as an anchor date."""
    return isinstance(there, Mapping) and all(there.get(k) == v for k, v in wanted.items())


async def ensure_schedules(
    api: PrefectApi, deployment: UUID, workspaces: Iterable[Workspace]
) -> None:
    """Have Prefect's schedules be those that the Workspaces ask for.

    Raises: PrefectUnavailable.
    """
    there = [There(**each) for each in await api.schedules(deployment)]
    for change in changes(wanted_bodies(workspaces), there):
        logger.info("schedule %s", change)
        if isinstance(change, Add):
            await api.add_schedule(deployment, change.body)
        elif isinstance(change, Change):
            await api.change_schedule(deployment, change.id, change.body)
        else:
            await api.remove_schedule(deployment, change.id)


async def keep_schedules(
    api: PrefectApi, pool: str, list_workspaces: Callable[[], Iterable[Workspace] | None]
) -> None:
    """Ensure them for ever; what cannot be done now is done at a later look.

    Args: list_workspaces: None = it is not known yet which there are.
    """
    while True:
        try:
            workspaces = list_workspaces()
            if workspaces is not None:
                deployment = await api.deployment_id(RETUNE_FLOW, pool)
                await ensure_schedules(api, deployment, workspaces)
        except KaitoflowError as error:
            logger.warning("schedules not looked at: %s", error)
        await asyncio.sleep(_LOOK_AGAIN_S)
