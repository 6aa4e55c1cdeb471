"""A pod program that is run here, for a moment: it looks, and nothing of it stays.

As a program, since what runs in pods is not imported here; one that hangs can be killed, and a
password is gone with its folder.
"""

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks.contract.errors import ContainerKilled
from tasks.contract.podlog import EVENT_NONCE, Event, parse_event, verdict_error

# Each is a Python interpreter's start, most of a second of a core: one that plans hundreds of runs
# at once asks for the first few, and then for one every half minute.
_AT_ONCE, _ANOTHER_AFTER_S = 4, 30.0


class Allowance:
    """How many programs may be started now."""

    def __init__(self, *, most: int, another_after_s: float, clock: Callable[[], float]) -> None:
        """Let at most `most` be started one right after the other."""
        self._most, self._another_after_s, self._clock = float(most), another_after_s, clock
        self._left, self._at_s = self._most, clock()

    def take(self) -> bool:
        """Whether one may be started; it counts as started then."""
        now_s = self._clock()
        regained = (now_s - self._at_s) / self._another_after_s
        self._left, self._at_s = min(self._most, self._left + regained), now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


_allowance = Allowance(most=_AT_ONCE, another_after_s=_ANOTHER_AFTER_S, clock=time.monotonic)


async def run_here(program: str, config: Any, folder: Path) -> Event:
    """The program's `result`; cancelling kills it.

    Args: config: a frozen dataclass owned by the program. folder: for its file, and nobody else's.
    Raises: the typed error of its verdict; ContainerKilled when there is none, or when too many
    were started just now.
    """
    if not _allowance.take():
        raise ContainerKilled(
            f"{program} was to look",
            "many runs begin at once, so it was left out",
            "to have it look, use `kaitoflow plan`",
        )
    nonce = secrets.token_hex(16)
    file = folder / "config.json"
    file.write_bytes(TypeAdapter(type(config)).dump_json(config))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        program,
        str(file),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        | {EVENT_NONCE: nonce},
    )
    try:
        said, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    lines = said.decode(errors="replace").splitlines()
    events = [event for line in lines if (event := parse_event(line, nonce=nonce))]
    return _outcome(program, events, process.returncode)


def _outcome(program: str, events: list[Event], code: int | None) -> Event:
    last = events[-1] if events else {"event": ""}
    if last["event"] == "result" and code == 0:
        return last
    if last["event"] == "verdict":
        raise verdict_error(last)
    raise ContainerKilled(
        f"{program} was asked to look",
        f"it ended with exit code {code} and no verdict",
        "try again",
    )
