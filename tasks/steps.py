"""How every step tells what it does: a container's words become status, run log and progress.

A step's `task.py` calls `run_container`; nothing else in the project turns events into status.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from tasks.contract.errors import DeadlineExceeded
from tasks.contract.news import status_news
from tasks.contract.podlog import Answer, Event, read_answer
from tasks.contract.status import FinishedStep, Progress, WorkspaceStatus
from tasks.contract.steps import StepName
from tasks.contract.units import utc_text
from tasks.contract.workspace import Workspace
from tasks.events import tell_events
from tasks.platform.base import Pod
from tasks.platform.current import current_platform
from tasks.settings import Settings, settings


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How long a container may take in all, once it has started; whose it is, and what sets it."""

    seconds: float
    whose: str
    setting: str


logger = logging.getLogger(__name__)

_LAST_WORDS_MAX_CHARS = 200

ProgressListener = Callable[[Progress], Awaitable[None]]


async def change_status(
    workspace: Workspace, change: Callable[[WorkspaceStatus], None]
) -> WorkspaceStatus:
    """The status after a change; the run is the only writer, so read and replace is enough.

    Conditions that turned True or False become events of the Workspace; for one cause, one event.
    What has happened by that is told to Prefect, too.
    """
    platform = current_platform()
    status = await platform.read_status(workspace)
    before = status.model_copy(deep=True)
    change(status)
    await platform.write_status(workspace, status)
    tell_events(workspace, before, status)
    for each in status_news(before, status):
        await platform.record_event(
            workspace, reason=each.reason, message=each.message, is_warning=each.is_warning
        )
    return status


class Step:
    """What a step says of itself when it is done; see `recorded_step`."""

    def __init__(self) -> None:
        """Nothing is said yet."""
        self.detail = ""


@contextlib.asynccontextmanager
async def recorded_step(workspace: Workspace, name: StepName) -> AsyncIterator[Step]:
    """Show a step as under way, and when it ends well as one finished line with its duration."""
    started = monotonic()
    step = Step()

    def begin(status: WorkspaceStatus) -> None:
        status.progress = Progress(step_name=name.value)

    def finish(status: WorkspaceStatus) -> None:
        seconds = round(monotonic() - started, 1)
        status.steps = [s for s in status.steps if s.name != name]
        ended = utc_text(datetime.now(UTC))
        status.steps.append(
            FinishedStep(name=name.value, seconds=seconds, detail=step.detail, finished=ended)
        )
        status.progress = Progress()

    await change_status(workspace, begin)
    yield step
    await change_status(workspace, finish)
    logger.info("step finished step=%s detail=%r", name, step.detail)


async def run_container(
    workspace: Workspace,
    pod: Pod,
    name: str,
    *,
    answers: type[Answer],
    step: StepName,
    on_progress: ProgressListener | None = None,
    limit: Limit | None = None,
) -> Answer:
    """Run a pod's container to its end, telling its progress; what its program answers.

    Args: limit: None = only its silence is limited.
    Raises: the typed error of the container's verdict. DeadlineExceeded: it said nothing any more,
    or took too long.
    """
    platform = current_platform()

    async def end() -> None:
        await platform.end(workspace, pod)

    lines = until_silent(
        platform.follow(workspace, pod, pod.container(name)), settings(), step=step, end=end
    )
    if limit:
        lines = until_over(lines, limit, end=end)
    async with contextlib.aclosing(lines):
        said = await tell(workspace, lines, step=step, on_progress=on_progress)
    return read_answer(answers, said)


async def until_silent(
    lines: AsyncGenerator[Event | str],
    limits: Settings,
    *,
    step: StepName,
    end: Callable[[], Awaitable[None]],
) -> AsyncGenerator[Event | str]:
    """Yield what a container says, as long as it says something from time to time, or ends.

    What waits for its start holds no GPU, and may wait as long as its Job may take.

    Raises: DeadlineExceeded: it was silent for too long, and has been ended.
    """
    last: Event | str = "nothing"
    async with contextlib.aclosing(lines):
        while True:
            is_waiting = isinstance(last, dict) and last["event"] == "waiting"
            limit_s = limits.job_timeout_s if is_waiting else limits.step_silence_timeout_s
            try:
                async with asyncio.timeout(limit_s) as silence:
                    said = await anext(lines, None)
            except TimeoutError as error:
                if not silence.expired():
                    raise
                await end()
                setting = "JOB_TIMEOUT_S" if is_waiting else "STEP_SILENCE_TIMEOUT_S"
                raise _silent(step, last, limit_s, setting=setting) from error
            if said is None:
                return
            last = said
            yield said


async def until_over(
    lines: AsyncGenerator[Event | str], limit: Limit, *, end: Callable[[], Awaitable[None]]
) -> AsyncGenerator[Event | str]:
    """Yield what a container says, as long as it may take; what it waits for its start is no part.

    Raises: DeadlineExceeded: it took longer, and has been ended.
    """
    deadline_s: float | None = monotonic() + limit.seconds
    async with contextlib.aclosing(lines):
        while True:
            left_s = None if deadline_s is None else deadline_s - monotonic()
            try:
                async with asyncio.timeout(left_s) as over:
                    said = await anext(lines, None)
            except TimeoutError as error:
                if not over.expired():
                    raise
                await end()
                raise DeadlineExceeded(
                    f"{limit.whose} was to end",
                    f"it had not after {limit.seconds:.0f} s, and was ended",
                    f"have it do less, or raise KAITOFLOW_{limit.setting}",
                ) from error
            if said is None:
                return
            if isinstance(said, dict) and said["event"] == "waiting":
                deadline_s = None
            elif deadline_s is None:
                deadline_s = monotonic() + limit.seconds
            yield said


def _silent(step: StepName, last: Event | str, limit_s: float, *, setting: str) -> DeadlineExceeded:
    told = str(last).replace("; ", ", ")[:_LAST_WORDS_MAX_CHARS]
    return DeadlineExceeded(
        f"step {step} was to go on or to end",
        f"it has done neither for {limit_s:.0f} s, and was ended (the last it said: {told})",
        f"run the Workspace again, or raise KAITOFLOW_{setting} where a step takes so long",
    )


async def tell(
    workspace: Workspace,
    lines: AsyncGenerator[Event | str],
    *,
    step: StepName,
    on_progress: ProgressListener | None = None,
) -> Event:
    """Turn what a container says into status, log lines and progress; its last `result` event."""
    result: Event = {}
    shown = progress = Progress(step_name=step.value)
    every_s, written_s = current_platform().progress_every_s, -math.inf
    async for said in lines:
        if isinstance(said, str):
            logger.info("%s: %s", step, said)
            continue
        if said["event"] == "result":
            result = said
        if said["event"] not in ("progress", "waiting"):
            continue
        progress = _advance(progress, said)
        is_due = monotonic() - written_s >= every_s
        if not is_due and not _is_news(progress, shown):
            continue
        shown, written_s = progress, monotonic()
        await _show(workspace, progress)
        if on_progress:
            await on_progress(progress)
    return result


def _is_news(progress: Progress, shown: Progress) -> bool:
    """Whether a person is to see it at once: another phase has begun, or the last step is done."""
    is_last = progress.step == progress.steps != shown.step
    return progress.phase != shown.phase or is_last


def _advance(progress: Progress, event: Event) -> Progress:
    known = {k: v for k, v in event.items() if k in Progress.model_fields and v is not None}
    if "loss" in event:
        logger.info(
            "%s: %s",
            progress.step_name,
            " ".join(f"{k}={_short(v)}" for k, v in event.items() if k != "event"),
        )
    return progress.model_copy(update=known)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


async def _show(workspace: Workspace, progress: Progress) -> None:
    def change(status: WorkspaceStatus) -> None:
        status.progress = progress

    await change_status(workspace, change)


def again_may_help(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed step is worth another try: only for errors that say so."""
    return bool(getattr(state.data, "retryable", False))
