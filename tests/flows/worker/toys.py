"""Small flows for the worker's tests; what they live through they write into files."""

import asyncio
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task

library = logging.getLogger("tasks.toy")
library.setLevel(logging.INFO)


def note(path: str, word: str, run_id: Any = None) -> None:
    """Append `word run-id pid` as one line, in one write."""
    with Path(path).open("a", buffering=1) as file:
        file.write(f"{word} {run_id or runtime.flow_run.id} {os.getpid()}\n")


async def clean_up(flow: Any, flow_run: Any, state: Any) -> None:
    """The cancellation hook."""
    await asyncio.sleep(0.2)
    note(flow_run.parameters["path"], "cleaned", flow_run.id)


@task
async def wait_for(gate: str) -> None:
    """Until the file `gate` is there."""
    while not Path(gate).exists():
        await asyncio.sleep(0.1)


@flow(on_cancellation=[clean_up])
async def guarded(path: str, gate: str) -> int:
    """Begin, wait for the gate, end; the number of threads meanwhile."""
    note(path, "began")
    try:
        await wait_for(gate)
    except asyncio.CancelledError as error:
        note(path, f"stopped:{str(error).replace(' ', '-')}")
        raise
    note(path, "ended")
    return threading.active_count()


@flow
async def counted(path: str) -> None:
    """Note how often this run has begun."""
    note(path, f"begun-{runtime.flow_run.run_count}-times")


@flow(on_cancellation=[clean_up])
async def stubborn(path: str, gate: str) -> None:
    """Answer a cancellation by ending well."""
    note(path, "began")
    try:
        await wait_for(gate)
    except asyncio.CancelledError:
        note(path, "ignored")


@task
async def say(who: str, lines: int) -> None:
    """Log from a task, from a library and from a child of the event loop."""

    async def in_child(number: int) -> None:
        library.info("%s child %d", who, number)

    for number in range(lines):
        get_run_logger().info("%s task %d", who, number)
        library.info("%s library %d", who, number)
        await asyncio.create_task(in_child(number))
        await asyncio.to_thread(library.info, "%s thread %d", who, number)


@flow(log_prints=True)
async def talkative(who: str, lines: int) -> None:
    """Log who it is, in every way."""
    print(f"{who} print")  # noqa: T201  prints are logged too
    get_run_logger().info("%s flow", who)
    await asyncio.gather(say(who, lines), say(who, lines))


@flow
async def child(path: str) -> None:
    """A flow in a flow."""
    note(path, "child")


@flow
async def parent(path: str) -> None:
    """Call a flow."""
    await child(path)
    note(path, "ended")


@flow
async def failing() -> None:
    """Fail."""
    raise ValueError("as it was meant")


async def fail_once(path: str, gate: str) -> None:
    """Fail the first time, wait for the gate the next."""
    note(path, "began")
    run_id = str(runtime.flow_run.id)
    if Path(path).read_text().count(f"began {run_id}") == 1:
        raise ValueError("again, please")
    await wait_for(gate)
    note(path, "ended")


@flow(retries=1)
async def flaky(path: str, gate: str) -> None:
    """Succeed at the second try."""
    await fail_once(path, gate)


@flow(retries=1, retry_delay_seconds=6)
async def flaky_later(path: str, gate: str) -> None:
    """The same, after a while."""
    await fail_once(path, gate)


@task
async def tick() -> None:
    """Take a moment."""
    await asyncio.sleep(0.2)


@flow
async def stepping(path: str, gate: str) -> None:
    """Do small steps until the gate is there."""
    note(path, "began")
    while not Path(gate).exists():
        await tick()
    note(path, "ended")


@flow
def blocking() -> None:
    """Would hold up the whole loop."""
    time.sleep(0.1)
