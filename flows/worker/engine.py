"""Prefect's flow engine, for many runs in one event loop. All private names of Prefect are here.

Prefect's engine expects a process per run: it installs a signal handler, starts threads for
heartbeats and suspension, and keeps per process what a run was cancelled for. What is below
changes that and nothing else; `tests/flows/worker/test_engine.py` says at once when
another version of Prefect would break one of them. Written against Prefect 3.8.8.
"""

import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import httpx
from anyio import CancelScope
from prefect import Flow, flow_engine, flows, results
from prefect._flow_run_suspension import (
    FlowRunSuspensionRequest,
    mark_flow_run_suspension_requested,
    register_flow_run_suspension_request,
)
from prefect._internal.pydantic.validated_func import ValidatedFunction
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import AsyncClientContext
from prefect.exceptions import Abort
from prefect.flow_engine import AsyncFlowRunEngine
from prefect.flows import load_flow_from_entrypoint
from prefect.logging.loggers import flow_run_logger, patch_print
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Pending
from prefect.utilities.callables import get_call_parameters, parameters_to_args_kwargs
from prefect.utilities.engine import propose_state
from pydantic import ConfigDict

load_flow = load_flow_from_entrypoint
suspend = mark_flow_run_suspension_requested
_just_begun: ContextVar[FlowRun | None] = ContextVar("run that has just begun", default=None)
# What Prefect calls a run that nobody named: impressive-otter.
_GENERATED_NAME = re.compile("[a-z]+-[a-z]+")


class Intent(StrEnum):
    """What a run's task is cancelled for; the flow finds it in its CancelledError."""

    CANCEL = "the run was cancelled"
    DELETE = "the run was deleted"
    STOP = "the worker is stopping, another one resumes the run"
    GIVE_UP = "the worker does not hold the run any more"


@dataclass
class InProcessEngine(AsyncFlowRunEngine[Any, Any]):
    """One run beside others in this process; see `drive`."""

    intent: Intent | None = None
    on_running: Callable[[], Awaitable[None]] | None = None
    was_cleaned_up: bool = False

    @property
    def heartbeat_seconds(self) -> None:
        """No heartbeats of a run, each from a thread: the worker's own stand for all its runs."""
        return

    @contextlib.contextmanager
    def setup_flow_run_suspension_request(self) -> Iterator[FlowRunSuspensionRequest]:
        """Save a thread and a websocket per run: the worker looks, and calls `suspend`."""
        assert self.flow_run
        request = self._get_flow_run_suspension_request()
        with register_flow_run_suspension_request(self.flow_run.id, request):
            request.raise_if_requested()
            yield request

    async def begin_run(self) -> State:
        """Propose Running, and tell that the run's turn to start is over."""
        state = await super().begin_run()
        if state.is_running() and self.flow_run:
            self.flow_run.run_count += 1  # as the server counts
            _just_begun.set(self.flow_run)
        if self.on_running:
            await self.on_running()
        return state

    async def handle_crash(self, exc: BaseException) -> None:
        """End as it was meant, instead of as Crashed, when the worker cancelled the task."""
        if self.intent is None:
            await super().handle_crash(exc)
            return
        with CancelScope(shield=True):
            self._raised = exc  # type: ignore[assignment]
            await self.end_as_meant()

    async def end_as_meant(self) -> None:
        """Leave the run in the state that its intent stands for, after its hooks."""
        if self.intent in (Intent.CANCEL, Intent.DELETE):
            await self.call_hooks(Cancelling(message=self.intent))
        if self.intent == Intent.CANCEL:
            await self.set_state(Cancelled(message=self.intent), force=True)
        if self.intent == Intent.STOP:
            assert self.flow_run
            await allow_another_worker(self.client, self.flow_run)
            await self.set_state(AwaitingRetry(message=self.intent), force=True)

    async def call_hooks(self, state: State | None = None) -> None:
        """Run the state's hooks; those of cancellation once, however many hear of it."""
        state = state or self.state
        if state.is_cancelling():
            if self.was_cleaned_up:
                return
            self.was_cleaned_up = True
        await super().call_hooks(state)


def make_engine(flow: Flow[..., Any], run: FlowRun) -> InProcessEngine:
    """The engine for a run, with the run's parameters and the flow's defaults."""
    arguments, keywords = parameters_to_args_kwargs(flow.fn, run.parameters)
    parameters = get_call_parameters(flow.fn, arguments, keywords)
    logger = flow_run_logger(flow_run=run, flow=flow)
    engine = InProcessEngine(flow=flow, parameters=parameters, flow_run=run, logger=logger)  # type: ignore[arg-type]
    # A name that somebody gave, the watcher too, is kept: that is a request less.
    engine._flow_run_name_set = not _GENERATED_NAME.fullmatch(run.name)  # noqa: SLF001
    return engine


async def drive(engine: InProcessEngine) -> None:
    """Execute the run as `prefect.flow_engine.run_flow_async` does; its state says how it ended."""
    async with engine.start():
        while engine.is_running():
            async with engine.run_context():
                await engine.call_flow_fn()  # type: ignore[unused-coroutine]


async def claim(client: PrefectClient, run_id: UUID, message: str) -> State | None:
    """The Pending state of a scheduled run that is now ours; None when another worker was first.

    The server lets only one proposal of Pending through.
    """
    try:
        state = await propose_state(client, Pending(message=message), flow_run_id=run_id)
    except Abort:
        return None
    return state if state.is_pending() else None


async def schedule_again(client: PrefectClient, run: FlowRun, message: str) -> None:
    """Let any worker of the pool take up a run that was claimed."""
    await allow_another_worker(client, run)
    state: State[None] = AwaitingRetry(message=message)
    await client.set_flow_run_state(run.id, state, force=True)


async def allow_another_worker(client: PrefectClient, run: FlowRun) -> None:
    """Undo that Prefect keeps a run which was tried again for the process that did so."""
    if run.empirical_policy.retries:
        policy = run.empirical_policy.model_copy(update={"retry_type": "reschedule"})
        await client.update_flow_run(run.id, empirical_policy=policy)


def waits_for_its_process(run: FlowRun) -> bool:
    """Whether a run is scheduled, but for the process that holds it: it failed and has retries."""
    is_scheduled = run.state is not None and run.state.is_scheduled()
    return is_scheduled and run.empirical_policy.retry_type == "in_process"


@contextlib.asynccontextmanager
async def shared_client(owner: str) -> AsyncIterator[PrefectClient]:
    """One client for all runs; a client and its TLS context for each took a third of the time.

    A run that has just begun is not read again: what the server has of it is known.

    Args: owner: who holds the runs. It is written together with what the engine writes of a run
    before it begins, instead of in a request of its own.
    """
    async with AsyncClientContext() as shared:
        client = shared.client
        update = functools.partial(client.update_flow_run, infrastructure_pid=owner)
        client.update_flow_run = update  # type: ignore[method-assign]
        read = client.read_flow_run

        async def read_flow_run(flow_run_id: UUID) -> FlowRun:
            begun = _just_begun.get()
            _just_begun.set(None)
            return begun if begun and begun.id == flow_run_id else await read(flow_run_id)

        client.read_flow_run = read_flow_run  # type: ignore[method-assign]
        yield client


def observe(client: PrefectClient, answered: Callable[[str, int, float], None]) -> None:
    """Have `answered` told of each request: its method, status (0 = no answer) and seconds.

    A request that the client makes again by itself counts once, with all the time it took.
    """
    send = client._client.send  # noqa: SLF001

    async def observed(request: httpx.Request, *args: Any, **options: Any) -> httpx.Response:
        began_s, status = time.monotonic(), 0
        try:
            response = await send(request, *args, **options)
            status = response.status_code
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise
        finally:
            answered(request.method, status, time.monotonic() - began_s)
        return response

    client._client.send = observed  # type: ignore[method-assign]  # noqa: SLF001


@contextlib.asynccontextmanager
async def many_in_one_process(client: PrefectClient) -> AsyncIterator[None]:
    """Undo what engines, those of subflows too, do to the process as if it were theirs alone.

    SIGTERM would raise anywhere in the loop; the worker answers it for all its runs. Each run would
    ask the server where results are kept, and the whole loop would wait for the answer; the worker
    asks once. Each would also have a pydantic model made of its flow's parameters; one is enough.
    The first flow with `log_prints` to end would give the others the plain `print` back.
    """
    storage_id = (await client.read_server_default_result_storage()).default_result_storage_block_id

    async def known_storage_id() -> UUID | None:
        return storage_id

    @functools.cache
    def known_signature(function: Callable[..., Any]) -> ValidatedFunction:
        return ValidatedFunction(function, config=ConfigDict(arbitrary_types_allowed=True))

    with contextlib.ExitStack() as stack:
        for module, name, ours in (
            (flow_engine, "capture_sigterm", contextlib.nullcontext),
            (flows, "ValidatedFunction", lambda function, config: known_signature(function)),  # noqa: ARG005
            (results, "_read_server_default_result_storage_block_id", lambda: storage_id),
            (results, "_aread_server_default_result_storage_block_id", known_storage_id),
        ):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, ours)
        stack.enter_context(patch_print())
        yield
