"""The questions that Prefect asks of a person: whether a candidate that waits is to serve.

Each is a run of `approve-adapter` that is suspended until somebody resumes it with a word. Whether
one is to be asked follows from the Workspaces alone: looked at again and again, as their schedules
are, so a Prefect server that has lost its database asks again, and a question goes once the
adapter's fate is decided, by whomever, or its Workspace is gone. One that ended without a word, of
a person who cancelled it or by a failure, has decided nothing: it is asked again, ever later.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.prefect_api import PrefectApi, Run, uid_tag
from tasks.contract.adapter_history import AdapterHistory, Fate
from tasks.contract.errors import KaitoflowError
from tasks.contract.status import status_of
from tasks.contract.workspace import ObjectMeta

logger = logging.getLogger(__name__)

APPROVE_FLOW = "approve-adapter"
_LOOK_AGAIN_S = 5.0
# Twice as long after each: who cancels a question is reminded, and what always fails rests.
_ASK_AGAIN_S, _ASK_AGAIN_MOST_S = 60.0, 86400.0
_AGAIN = " again "

Body = Mapping[str, Any]
# A Workspace's name and uid, with its adapters.
History = tuple[ObjectMeta, AdapterHistory]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Have a run that is not there."""

    body: Body


@dataclass(frozen=True, kw_only=True)
class Withdraw:
    """Have a question wait no more: what it is about is decided."""

    run: Run


def histories_of(manifests: Iterable[Mapping[str, Any]]) -> list[History]:
    """The adapters of those of a cluster's Workspaces that may have one that waits for a word."""
    return [
        (ObjectMeta.model_validate(manifest["metadata"]), status_of(manifest).adapters)
        for manifest in manifests
        if _may_wait(manifest) and "deletionTimestamp" not in manifest["metadata"]
    ]


def _may_wait(manifest: Mapping[str, Any]) -> bool:
    """Whether it is worth to read the whole status, which hundreds of Workspaces have."""
    match manifest:
        case {"status": {"adapters": {"records": [*records]}}}:
            return any(
                each.get("fate") == Fate.WAITING for each in records if isinstance(each, Mapping)
            )
        case _:
            return False


def question(meta: ObjectMeta, number: int, *, is_time_up: bool = False) -> Body:
    """What Prefect is asked for, to have a person asked, or to have nobody answer in time.

    By its key there is one such run, however often it is asked for; `ask` has others follow it.
    """
    key = f"{APPROVE_FLOW} {meta.uid} {number}"
    return {
        "name": f"approve {meta}@{number}",
        "parameters": {
            "namespace": meta.namespace,
            "name": meta.name,
            "number": number,
            "is_time_up": is_time_up,
        },
        "idempotency_key": f"{key} time is up" if is_time_up else key,
        "tags": [APPROVE_FLOW, uid_tag(meta.uid)],
    }


def changes(
    histories: Iterable[History], there: Iterable[Run], *, now: datetime
) -> list[Ask | Withdraw]:
    """What makes the questions that wait the ones that are to; nothing where they are.

    Args: there: runs of `approve-adapter` that have not ended.
    """
    told: list[Ask | Withdraw] = []
    known, wanted = {_key(run): run for run in there}, set[str]()
    for meta, adapters in histories:
        if (candidate := adapters.waiting) is None:
            continue
        asked = question(meta, candidate.number)
        wanted.add(asked["idempotency_key"])
        if candidate.is_time_up(now):
            run = known.get(asked["idempotency_key"])
            if run and not run.is_paused:
                continue  # a word was given in time, and is being carried out
            asked = question(meta, candidate.number, is_time_up=True)
        if asked["idempotency_key"] not in known:
            told.append(Ask(body=asked))
    decided = (run for key, run in known.items() if key not in wanted and run.is_paused)
    return told + [Withdraw(run=run) for run in decided]


def again(asked: Body, ended: Sequence[Run], *, now: datetime) -> Body | None:
    """What Prefect is asked for after these runs of the same question have ended without a word.

    None = not yet.
    """
    if not ended:
        return asked
    wait_s = min(_ASK_AGAIN_S * 2 ** (len(ended) - 1), _ASK_AGAIN_MOST_S)
    if now < max(run.since for run in ended) + timedelta(seconds=wait_s):
        return None
    # Not their number: somebody may have deleted one of them.
    last = max(_times_asked(run) for run in ended)
    return {**asked, "idempotency_key": f"{asked['idempotency_key']}{_AGAIN}{last + 1}"}


def _key(run: Run) -> str:
    """What a run asks, whether for the first time or again."""
    return (run.idempotency_key or "").partition(_AGAIN)[0]


def _times_asked(run: Run) -> int:
    """How often it was asked before this run."""
    return int((run.idempotency_key or "").partition(_AGAIN)[2] or 0)


async def ask(api: PrefectApi, pool: str, body: Body) -> Run | None:
    """The run that asks, which begins when a worker takes it; None = it is asked again later.

    Raises: PrefectUnavailable.
    """
    same = [r for r in await api.runs_with(body["tags"]) if _key(r) == body["idempotency_key"]]
    if waiting := next((run for run in same if not run.has_ended), None):
        return waiting
    if (due := again(body, same, now=datetime.now(UTC))) is None:
        return None
    return await api.create_run(await api.deployment_id(APPROVE_FLOW, pool), due)


async def ensure_questions(api: PrefectApi, pool: str, histories: Iterable[History]) -> None:
    """Have Prefect ask what the Workspaces want to know, and nothing else.

    Raises: PrefectUnavailable.
    """
    there = await api.alive_runs(APPROVE_FLOW)
    for change in changes(histories, there, now=datetime.now(UTC)):
        if isinstance(change, Ask):
            await ask(api, pool, change.body)
        else:
            logger.info("question withdrawn run=%s", change.run.name)
            message = "the adapter's fate is decided"
            await api.end(change.run, "COMPLETED", name="Decided", message=message)


async def keep_questions(
    api: PrefectApi, pool: str, list_histories: Callable[[], Iterable[History] | None]
) -> None:
    """Ensure them for ever; what cannot be done now is done at a later look.

    Args: list_histories: None = it is not known yet which there are.
    """
    while True:
        try:
            if (histories := list_histories()) is not None:
                await ensure_questions(api, pool, histories)
        except KaitoflowError as error:
            logger.warning("questions not looked at: %s", error)
        await asyncio.sleep(_LOOK_AGAIN_S)
