"""Runs whose worker is gone, found and taken over: after kill -9, a lost node, a long outage.

A worker proves to be alive by its heartbeats on the work pool. Its earlier starts are gone at once
(a name belongs to one process at a time), other workers after a lease without a heartbeat.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Hashable
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    Operator,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

from flows.worker.engine import schedule_again, waits_for_its_process
from flows.worker.leases import Leases
from flows.worker.runs import owner_of, worker_of

logger = get_logger("kaitoflow.worker")  # ours would go to a run's log

_PAGE = 200
_LOCK_LEASE_S = 60.0
_FORGOTTEN_AFTER_S = 5 * _LOCK_LEASE_S
_HELD_STATES = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


class Orphans:
    """The orphans of one work pool, seen from one start of a worker."""

    def __init__(self, client: PrefectClient, pool: str, owner: str, *, lease_s: float) -> None:
        self._client = client
        self._pool = pool
        self._owner = owner
        self._leases = Leases(lease_s)
        self._locked_since_s: float | None = None

    async def take_over(self, held: Callable[[], Collection[UUID]]) -> list[FlowRun]:
        """Schedule orphans again; those that were being cancelled are now this worker's to end.

        Args: held: the runs that this worker holds at the moment of the call.
        Returns: the runs in Cancelling, taken over.
        """
        held_before = set(held())  # what ends while we read must not look like an orphan
        runs = await self._runs_in_hands(but=held_before)
        await self._observe(runs)
        orphans = [run for run in runs if run.id not in held() and self._is_orphan(run)]
        if not orphans:
            return []
        async with self._lock() as is_mine:
            return await self._schedule_again(orphans) if is_mine else []

    async def _runs_in_hands(self, but: set[UUID]) -> list[FlowRun]:
        """Runs of the pool that somebody should be at work on."""
        of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool]))
        wanted = FlowRunFilter(
            id=FlowRunFilterId(not_any_=list(but)) if but else None,
            state=FlowRunFilterState(  # type: ignore[call-arg]
                operator=Operator.or_,
                type=FlowRunFilterStateType(any_=_HELD_STATES),
                name=FlowRunFilterStateName(any_=["AwaitingRetry"]),
            ),
        )
        # Counting costs the server little; with one worker there is nothing to read.
        number = await self._client.count_flow_runs(
            flow_run_filter=wanted, work_pool_filter=of_pool
        )
        found: list[FlowRun] = []
        for offset in range(0, number, _PAGE):
            found += await self._client.read_flow_runs(
                flow_run_filter=wanted,
                work_pool_filter=of_pool,
                sort=FlowRunSort.ID_DESC,
                limit=_PAGE,
                offset=offset,
            )
        return found

    async def _observe(self, runs: list[FlowRun]) -> None:
        workers = await self._client.read_workers_for_work_pool(self._pool)
        signs: dict[Hashable, Hashable] = {
            worker_of(owner): None for run in runs if (owner := owner_of(run))
        }
        signs |= {worker.name: worker.last_heartbeat_time for worker in workers}
        signs |= {run.id: run.state_id for run in runs}
        self._leases.observe(signs)

    def _is_orphan(self, run: FlowRun) -> bool:
        if run.state is None or (run.state.is_scheduled() and not waits_for_its_process(run)):
            return False
        owner = owner_of(run)
        if owner is None:
            return self._leases.is_over(run.id)
        if worker_of(owner) == worker_of(self._owner):
            return True  # an earlier start, or this one lost hold of it
        return self._leases.is_over(worker_of(owner))

    @contextlib.asynccontextmanager
    async def _lock(self) -> AsyncIterator[bool]:
        """Be the only worker of the pool that takes runs over; False when another one does.

        A slot that stays taken far longer than that takes is nobody's: Prefect's server keeps its
        holder in memory, and forgets it when it starts anew.
        """
        name = f"take-over-{self._pool}"
        await self._client.upsert_global_concurrency_limit_by_name(name, 1)
        try:
            answer = await self._client.increment_concurrency_slots_with_lease(
                [name], 1, "concurrency", _LOCK_LEASE_S
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.LOCKED:
                raise
            await self._free_if_forgotten(name)
            yield False
            return
        self._locked_since_s = None
        lease_id = UUID(answer.json()["lease_id"])
        try:
            yield True
        finally:
            await self._client.release_concurrency_slots_with_lease(lease_id)

    async def _free_if_forgotten(self, name: str) -> None:
        now_s = time.monotonic()
        self._locked_since_s = self._locked_since_s or now_s
        if now_s - self._locked_since_s > _FORGOTTEN_AFTER_S:
            logger.warning("slot freed, which nobody gave back limit=%s", name)
            free = GlobalConcurrencyLimitUpdate(active_slots=0)
            await self._client.update_global_concurrency_limit(name, free)
            self._locked_since_s = None

    async def _schedule_again(self, orphans: list[FlowRun]) -> list[FlowRun]:
        cancelling = []
        for orphan in orphans:
            try:
                run = await self._client.read_flow_run(orphan.id)
            except ObjectNotFound:
                continue
            if run.state is None or run.state_id != orphan.state_id:
                continue  # somebody else was first, or its worker is alive after all
            logger.info("taking over run=%s id=%s owner=%s", run.name, run.id, owner_of(run))
            if run.state.is_cancelling():
                await self._client.update_flow_run(run.id, infrastructure_pid=self._owner)
                run.infrastructure_pid = self._owner
                cancelling.append(run)
                continue
            message = f"its worker {owner_of(run) or ''} is gone"
            await schedule_again(self._client, run, message)
        return cancelling
