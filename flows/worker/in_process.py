"""A Prefect worker type, `kaitoflow`, that awaits the runs of its pool in this event loop.

Runs of ours wait and call APIs, so one process holds hundreds of them where Prefect's own workers
start a process or a pod for each. What a Prefect user expects is kept: work pools and their
limits, states, logs, cancelling and deleting in the UI, `prefect worker start --type kaitoflow`.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, Worker, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from flows.worker.endpoint import serve_endpoint
from flows.worker.engine import (
    Intent,
    many_in_one_process,
    observe,
    shared_client,
    suspend,
    waits_for_its_process,
)
from flows.worker.metrics import WorkerMetrics
from flows.worker.orphans import Orphans
from flows.worker.runs import FlowSource, HeldRun, make_owner
from flows.worker.settings import WorkerSettings
from tasks.contract.errors import KaitoflowError, WorkerNameTaken

logger = get_logger("kaitoflow.worker")  # ours would go to a run's log

_CALL_TIMEOUT_S = 20.0
_PAGE = 200
# Clocks differ; what is asked for too early waits at the server's word.
_AHEAD = timedelta(seconds=5)
# However many pokes come, the server is not asked more often; the first after a while counts at
# once. Each answer names all runs that still wait for their turn; or counts all that are held.
_POLL_GAP_S, _WATCH_GAP_S = 0.5, 2.0
# The share of its lease after which a worker that reaches no server gives its runs up. The rest
# is for their tasks to end before others may take them over.
_GIVE_UP_AT = 0.8
# A probe fails after this long without a turn of the polling loop.
_STUCK_S = 60.0
_AT_WORK = (StateType.PENDING, StateType.RUNNING)


class InProcessWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Awaits the runs of one work pool; see `start`."""

    type = "kaitoflow"

    def __init__(
        self,
        work_pool_name: str,
        name: str | None = None,
        limit: int | None = None,
        work_queues: list[str] | None = None,
        *,
        settings: WorkerSettings | None = None,
        **options: Any,
    ) -> None:
        """Work under a name of no other live worker of the pool, on `limit` runs at most."""
        self.settings = settings or WorkerSettings()
        options["heartbeat_interval_seconds"] = self.settings.heartbeat_s
        super().__init__(work_pool_name, work_queues, name, **options)
        self.pool, self.queues = work_pool_name, work_queues or []
        self.limit = limit or self.settings.limit
        self.owner = make_owner(self.name)
        self._runs: dict[UUID, HeldRun] = {}
        self._strange: dict[UUID, UUID | None] = {}
        self._flows = FlowSource()
        self._starts = asyncio.Semaphore(self.settings.starts)
        self._pokes = (asyncio.Event(), asyncio.Event())
        self._run_context = contextvars.copy_context()
        self._is_registered = False
        self._gives_up: asyncio.TimerHandle | None = None
        self._turned_s = time.monotonic()
        self.metrics = WorkerMetrics()
        self.metrics.watch(
            lambda: (held.phase for held in self._runs.values()),
            limit=self.limit,
            poll_age_s=lambda: time.monotonic() - self._turned_s,
        )

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Nothing to choose: a run has no infrastructure of its own."""
        return {"job_configuration": {"env": {}}, "variables": {"type": "object", "properties": {}}}

    async def start(
        self,
        run_once: bool = False,  # noqa: FBT001, FBT002  as Prefect calls it
        with_healthcheck: bool = False,  # noqa: ARG002, FBT001, FBT002  /healthz is always there
        printer: Callable[..., None] = print,
    ) -> None:
        """Work until cancelled; then the runs are handed on, and the worker ends within its grace.

        Raises: WorkerNameTaken, PortInUse.
        """
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self)
            await stack.enter_async_context(many_in_one_process(self.client))
            shared = await stack.enter_async_context(shared_client(self.owner))
            for client in (self.client, shared):
                observe(client, self.metrics.prefect_answered)
            self._run_context = contextvars.copy_context()
            stack.push_async_callback(self._hand_on)
            if run_once:
                await self._work_once()
                return
            port = await stack.enter_async_context(
                serve_endpoint(
                    self.settings.host,
                    self.settings.port,
                    poke=self.poke,
                    health=self.health,
                    metrics=self.metrics,
                )
            )
            printer(f"Worker {self.name!r} started, listening on {self.settings.host}:{port}")
            await self._work()
        printer(f"Worker {self.name!r} stopped")

    def poke(self) -> None:
        """Ask for new and for cancelled runs at once."""
        for poke in self._pokes:
            poke.set()

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the worker goes on asking for runs, even if the server is away; and its load."""
        silent_s = time.monotonic() - self._turned_s
        told = {"runs": len(self._runs), "limit": self.limit, "lastPollAgeS": round(silent_s, 1)}
        return silent_s < max(_STUCK_S, 5 * self.settings.poll_s), told

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,  # noqa: ARG002  there is none
        task_status: Any = None,
    ) -> BaseWorkerResult:
        """Execute one run to its end; `start` does so for all that the pool has."""
        held = self._hold(flow_run)
        if task_status:
            task_status.started(self.owner)
        assert held.task
        await asyncio.wait([held.task])
        return BaseWorkerResult(identifier=self.owner, status_code=0)

    async def sync_with_backend(self) -> None:
        """Tell the server that this worker lives; the first time, make sure of pool and name."""
        if not self._is_registered:
            await ensure_pool(self.client, self.pool)
            await self._refuse_taken_name()
        began_s = asyncio.get_running_loop().time()
        try:
            await self.client.send_worker_heartbeat(
                self.pool, self.name, heartbeat_interval_seconds=self.settings.heartbeat_s
            )
        except ObjectNotFound:
            self._is_registered = False  # somebody deleted the pool: it is made anew next time
            raise
        self._is_registered = True
        self._renew_lease(began_s)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take what is scheduled, as far as the limit goes."""
        free = self.limit - len(self._runs)
        if not self._is_registered or free <= 0:
            return []
        answers = await self.client.get_scheduled_flow_runs_for_work_pool(
            work_pool_name=self.pool,
            work_queue_names=self.queues or None,
            scheduled_before=datetime.now(UTC) + _AHEAD,
        )
        new = [answer.flow_run for answer in answers if answer.flow_run.id not in self._runs]
        for run in new[:free]:
            self._hold(run)
        return new[:free]

    # What follows is what the worker does, loop by loop.

    async def _work(self) -> None:
        lease_s, settings = self.settings.lease_s, self.settings
        orphans = Orphans(self.client, self.pool, self.owner, lease_s=lease_s)
        loops = (
            self._repeat(self._poll, settings.poll_s, wake=self._pokes[0], gap_s=_POLL_GAP_S),
            self._repeat(self._watch, settings.watch_s, wake=self._pokes[1], gap_s=_WATCH_GAP_S),
            self._repeat(self.sync_with_backend, settings.heartbeat_s),
            self._repeat(lambda: self._rescue(orphans), min(10.0, lease_s / 6)),
        )
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _work_once(self) -> None:
        await self.get_and_submit_flow_runs()
        if tasks := list(self._tasks()):
            await asyncio.wait(tasks)

    async def _repeat(
        self,
        action: Callable[[], Awaitable[Any]],
        every_s: float,
        *,
        wake: asyncio.Event | None = None,
        gap_s: float = _POLL_GAP_S,
    ) -> None:
        """Do it again and again: a server that is away is no reason to end, nor to wait longer."""
        wake, is_failing = wake or asyncio.Event(), False
        # A call that fails is made again by the loop, soon, instead of by the client, ever later.
        timeout_s = _CALL_TIMEOUT_S + 3 * self.settings.heartbeat_s
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            while True:
                wake.clear()
                try:
                    async with asyncio.timeout(timeout_s):
                        await action()
                    is_failing = False
                except KaitoflowError:
                    raise
                except Exception as error:  # noqa: BLE001  the edge: the worker outlives any error
                    logger.log(
                        logging.DEBUG if is_failing else logging.WARNING,
                        "the Prefect server could not be asked, trying on: %s: %s",
                        type(error).__name__,
                        error,
                    )
                    is_failing = True
                await asyncio.sleep(min(gap_s, every_s))
                # Not by wait_for, which in Python 3.11 loses a cancellation that comes with a poke.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0, every_s - gap_s)):
                        await wake.wait()

    async def _poll(self) -> None:
        self._turned_s = time.monotonic()
        await self.get_and_submit_flow_runs()

    async def _watch(self) -> None:
        """End what was cancelled, deleted or set to another state by somebody else."""
        claimed = {id_: held for id_, held in self._runs.items() if held.is_claimed}
        if not claimed:
            return
        ids = FlowRunFilterId(any_=list(claimed))
        at_work = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_AT_WORK)))
        well = FlowRunFilter(id=ids, state=at_work)
        if await self.client.count_flow_runs(flow_run_filter=well) == len(claimed):
            return
        found: dict[UUID, FlowRun] = {}
        for offset in range(0, len(claimed), _PAGE):
            page = await self.client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=ids),
                sort=FlowRunSort.ID_DESC,
                limit=_PAGE,
                offset=offset,
            )
            found |= {run.id: run for run in page}
        known, self._strange = self._strange, {}
        for id_, held in claimed.items():
            self._judge(held, found.get(id_), known)

    def _judge(self, held: HeldRun, run: FlowRun | None, known: dict[UUID, UUID | None]) -> None:
        if run is None:
            held.end(Intent.DELETE)
        elif run.state is None or run.state.type in _AT_WORK or waits_for_its_process(run):
            return
        elif run.state.is_cancelling():
            held.end(Intent.CANCEL)
        elif run.state.is_paused():
            if run.state.name == "Suspended":
                suspend(run.id, run.state)
        elif run.id in known and known[run.id] == run.state_id:
            # By hand, since the engine has had the time to hear of its own last state.
            held.end(Intent.CANCEL if run.state.is_cancelled() else Intent.GIVE_UP)
        else:
            self._strange[run.id] = run.state_id

    async def _rescue(self, orphans: Orphans) -> None:
        if not self._is_registered:
            return
        for run in await orphans.take_over(lambda: self._runs):
            self._hold(run, is_orphan=True)

    def _hold(self, run: FlowRun, *, is_orphan: bool = False) -> HeldRun:
        held = HeldRun(run, self.owner, self._flows)
        if is_orphan:
            held.adopt()
        life = held.settle() if is_orphan else held.execute(self._starts)
        loop = asyncio.get_running_loop()
        # Not in the context of the loop that found it, with its short patience.
        held.task = loop.create_task(life, name=f"run {run.id}", context=self._run_context.copy())
        held.task.add_done_callback(lambda _task: self._let_go(run.id))
        self._runs[run.id] = held
        return held

    def _let_go(self, run_id: UUID) -> None:
        was_full = len(self._runs) >= self.limit
        held = self._runs.pop(run_id)
        if held.is_claimed:
            self.metrics.ended(held.flow_name, held.end_state)
        if was_full:
            self.poke()

    def _tasks(self) -> Iterator[asyncio.Task[None]]:
        return (held.task for held in self._runs.values() if held.task)

    def _end_all(self, intent: Intent) -> None:
        for held in list(self._runs.values()):
            held.end(intent)

    async def _hand_on(self) -> None:
        """Set the runs to be continued by another worker, and sign off."""
        with anyio.CancelScope(shield=True):
            self._end_all(Intent.STOP)
            tasks = list(self._tasks())
            pending = (
                (await asyncio.wait(tasks, timeout=self.settings.stop_grace_s))[1] if tasks else ()
            )
            if self._gives_up:
                self._gives_up.cancel()
            if pending:
                logger.warning("runs that did not end in time number=%d", len(pending))
                return  # they are found by this worker's name at its next start
            with (
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                contextlib.suppress(Exception),
            ):
                await self.client.request(
                    "DELETE",
                    "/work_pools/{work_pool_name}/workers/{name}",
                    path_params={"work_pool_name": self.pool, "name": self.name},
                )

    def _renew_lease(self, began_s: float) -> None:
        if self._gives_up:
            self._gives_up.cancel()
        ends_s = began_s + _GIVE_UP_AT * self.settings.lease_s
        loop = asyncio.get_running_loop()
        self._gives_up = loop.call_at(ends_s, self._end_all, Intent.GIVE_UP)

    async def _refuse_taken_name(self) -> None:
        """A name stands for one process: what it held is taken over the moment it starts again."""
        before = await self._namesake()
        if before is None or before.status != WorkerStatus.ONLINE:
            return
        beat_s = before.heartbeat_interval_seconds or self.settings.heartbeat_s
        await asyncio.sleep(2.2 * beat_s)
        after = await self._namesake()
        if after and after.last_heartbeat_time != before.last_heartbeat_time:
            raise WorkerNameTaken(
                f"a worker {self.name!r} was to start on work pool {self.pool!r}",
                "another one of that name is alive",
                "choose another with --name, or stop it",
            )

    async def _namesake(self) -> Worker | None:
        workers = await self.client.read_workers_for_work_pool(self.pool)
        return next((worker for worker in workers if worker.name == self.name), None)


async def ensure_pool(client: PrefectClient, name: str) -> None:
    """Make a work pool for this kind of worker, unless there is a pool of that name."""
    template = InProcessWorker.get_default_base_job_template()
    wanted = WorkPoolCreate(name=name, type=InProcessWorker.type, base_job_template=template)
    with contextlib.suppress(ObjectAlreadyExists):
        await client.create_work_pool(wanted)
