"""One run in the hands of this worker: claimed, executed, and never left in a state between."""

import asyncio
import contextlib
import time
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect import Flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled, Cancelling, Crashed

from flows.worker.engine import (
    InProcessEngine,
    Intent,
    claim,
    drive,
    load_flow,
    make_engine,
    schedule_again,
)
from tasks.contract.errors import DeploymentUnusable

_HELD_BY = "held by "
# Of use when many runs of one deployment start at once; a changed deployment counts soon.
_DEPLOYMENT_CACHE_S = 5.0


def make_owner(worker_name: str) -> str:
    """Who holds a run: the worker's name, and this start of it."""
    return f"{worker_name}/{uuid4().hex[:8]}"


def worker_of(owner: str) -> str:
    """The name of the worker that an owner is a start of."""
    return owner.rsplit("/", 1)[0]


def owner_of(run: FlowRun) -> str | None:
    """Who holds a run, as it was written with its claim (Pending) or before it began to run."""
    message = (run.state.message if run.state else None) or ""
    if run.state and run.state.is_pending():
        return message.removeprefix(_HELD_BY) if message.startswith(_HELD_BY) else None
    return run.infrastructure_pid


class FlowSource:
    """The flows of deployments, each imported once."""

    def __init__(self) -> None:
        self._entrypoints: dict[UUID, tuple[float, str]] = {}
        self._flows: dict[str, Flow[..., Any]] = {}

    async def flow_of(self, run: FlowRun) -> Flow[..., Any]:
        """The flow that a run is of.

        Raises: DeploymentUnusable: it is not an async flow of an importable module.
        """
        entrypoint = await self._entrypoint(run)
        if entrypoint not in self._flows:
            self._flows[entrypoint] = await asyncio.to_thread(_import_flow, entrypoint)
        return self._flows[entrypoint]

    async def _entrypoint(self, run: FlowRun) -> str:
        if run.deployment_id is None:
            raise DeploymentUnusable(
                f"run {run.name} was to be executed",
                "it belongs to no deployment",
                "start it from one",
            )
        read_s, entrypoint = self._entrypoints.get(run.deployment_id, (0.0, ""))
        if entrypoint and time.monotonic() - read_s < _DEPLOYMENT_CACHE_S:
            return entrypoint
        deployment = await get_client().read_deployment(run.deployment_id)
        entrypoint = deployment.entrypoint or ""
        self._entrypoints[run.deployment_id] = (time.monotonic(), entrypoint)
        return entrypoint


def _import_flow(entrypoint: str) -> Flow[..., Any]:
    asked = f"a flow was to be loaded from entry point {entrypoint!r}"
    if ":" in entrypoint or "." not in entrypoint:
        # A file would be imported a second time, and its folder put first on sys.path.
        raise DeploymentUnusable(
            asked,
            "it is no dotted module path",
            "deploy it by module path",
        )
    try:
        flow: Flow[..., Any] = load_flow(entrypoint, use_placeholder_flow=False)
    except Exception as error:
        raise DeploymentUnusable(
            asked,
            f"{type(error).__name__}: {error}",
            "deploy a flow this worker can import",
        ) from error
    if not flow.isasync or flow.isgenerator:
        raise DeploymentUnusable(
            asked,
            "the flow is not `async def`, so all runs of this worker would wait for it",
            "make it async, or deploy it to a process pool",
        )
    return flow


class HeldRun:
    """One run from its claim to its end, in a task of its own."""

    def __init__(self, run: FlowRun, owner: str, flows: FlowSource) -> None:
        self.run = run
        self.is_claimed = False
        self.task: asyncio.Task[None] | None = None
        self._owner = owner
        self._flows = flows
        self._has_tried = False
        self._intent: Intent | None = None
        self._engine: InProcessEngine | None = None
        self._logger = flow_run_logger(run)

    def end(self, intent: Intent) -> None:
        """Cancel the run, for the first reason that comes; one that is ending is left to end."""
        if self._intent or self.is_ending or self.task is None:
            return
        self._intent = intent
        if self._engine:
            self._engine.intent = intent
        self.task.cancel(intent)

    @property
    def is_ending(self) -> bool:
        """Whether the engine is at the run's last state or its hooks, and wants no interruption."""
        engine = self._engine
        return engine is not None and (engine.was_cleaned_up or engine.state.is_final())

    @property
    def phase(self) -> str:
        """Where it stands, as `flows.worker.metrics.PHASES` has it."""
        if self._intent or self.is_ending:
            return "ending"
        return "running" if self._engine else "waiting"

    @property
    def flow_name(self) -> str:
        """The flow's name; empty before it is known."""
        return self._engine.flow.name if self._engine else ""

    @property
    def end_state(self) -> str:
        """Prefect's word for how the run has ended; HANDED_ON while it has not."""
        state = self._engine.state if self._engine else self.run.state
        return state.type.value if state and state.is_final() else "HANDED_ON"

    async def execute(self, starts: asyncio.Semaphore) -> None:
        """Claim the run and execute it, when it is this worker's turn; raises nothing."""
        async with contextlib.AsyncExitStack() as starting:
            error = None
            try:
                await starting.enter_async_context(starts)
                await self._execute(starting)
            except asyncio.CancelledError:
                if self._intent is None:
                    self._logger.warning("the flow cancelled itself")
            except (Abort, Pause):
                pass  # the server has the say, and the run's state tells
            except Exception as caught:  # noqa: BLE001  the edge: it becomes the run's state
                error = caught
            await self.settle(error)

    async def settle(self, error: Exception | None = None) -> None:
        """Give the run its last state where the engine could not; what fails is tried again later.

        A run that stays Running or Cancelling in this worker's name is found by `orphans.py`.
        """
        if not self._has_tried or self._intent == Intent.GIVE_UP or self._has_ended():
            return
        try:
            await self._settle(error)
        except (httpx.HTTPError, ObjectNotFound) as unwritten:
            self._logger.warning("the end of the run could not be told: %s", unwritten)

    def adopt(self) -> None:
        """Take the run as claimed: it was another worker's, which is gone."""
        self.is_claimed = self._has_tried = True

    async def _execute(self, starting: contextlib.AsyncExitStack) -> None:
        client = get_client()
        self._has_tried = True
        state = await claim(client, self.run.id, f"{_HELD_BY}{self._owner}")
        if state is None:
            self._has_tried = False
            return
        self.run.state = state
        self.is_claimed = True
        flow = await self._flows.flow_of(self.run)
        self._engine = make_engine(flow, self.run)
        self._engine.on_running = starting.aclose
        self._logger.info("held by worker %s", self._owner)
        await drive(self._engine)

    def _has_ended(self) -> bool:
        if self._engine is None:
            return False
        state = self._engine.state
        return state.is_final() or state.is_scheduled() or state.is_paused()

    async def _settle(self, error: Exception | None) -> None:
        client = get_client()
        try:
            run = await client.read_flow_run(self.run.id)
        except ObjectNotFound:
            await self._clean_up()
            return
        # Nobody's: cancelled between its claim and its start, which writes who holds it.
        owner = owner_of(run) or (self._owner if self.is_claimed else None)
        if owner != self._owner or run.state is None or run.state.is_final():
            return
        if run.state.is_cancelling():
            await self._clean_up()
            await client.set_flow_run_state(
                run.id, Cancelled(message=Intent.CANCEL.value), force=True
            )
        elif self._intent == Intent.STOP:
            await schedule_again(client, run, Intent.STOP)
        elif error is not None and not isinstance(error, httpx.HTTPError):
            self._logger.error("the run could not be executed: %s", error, exc_info=error)
            crashed: State[None] = Crashed(message=f"{type(error).__name__}: {error}")
            await client.set_flow_run_state(run.id, crashed)

    async def _clean_up(self) -> None:
        """Run the flow's cancellation hooks, unless the engine has."""
        if self._engine is None:
            try:
                self._engine = make_engine(await self._flows.flow_of(self.run), self.run)
            except (DeploymentUnusable, ObjectNotFound) as error:
                self._logger.warning("cancellation hooks could not be run: %s", error)
                return
        await self._engine.call_hooks(Cancelling(message=Intent.CANCEL))
