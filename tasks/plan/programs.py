"""A pod program that is run here, for a moment: it looks, and nothing of it stays.

As a program, since what runs in pods is not imported here; one that hangs can be killed, and a
password is gone with its folder.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks.errors import ContainerKilled, error_from_reason
from tasks.podlog import Event, parse_event

# Each is a Python interpreter's start; of hundreds of runs that begin at once most go without.
_AT_ONCE = 4
_LOOK_AGAIN_S = 0.05


class Turns:
    """Who of many may run a program now, whichever event loop they are in."""

    def __init__(self) -> None:
        """Nobody runs one."""
        self._taken = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Held while a program runs."""
        while self._taken >= _AT_ONCE:
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


_turns = Turns()


async def run_here(program: str, config: Any, folder: Path) -> Event:
    """The program's `result`; cancelling kills it.

    Args: config: a frozen dataclass owned by the program. folder: for its file, and nobody else's.
    Raises: the typed error of its verdict; ContainerKilled when there is none.
    """
    file = folder / "config.json"
    file.write_bytes(TypeAdapter(type(config)).dump_json(config))
    async with _turns.turn():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            program,
            str(file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        )
        try:
            said, _ = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
    return _outcome(program, said.decode(errors="replace"), process.returncode)


def _outcome(program: str, said: str, code: int | None) -> Event:
    events = [event for line in said.splitlines() if (event := parse_event(line))]
    last = events[-1] if events else {"event": ""}
    if last["event"] == "result":
        return last
    if last["event"] == "verdict":
        raise error_from_reason(last["reason"], last["message"])
    raise ContainerKilled(
        f"{program} was asked to look; it ended with exit code {code} and no verdict; try again"
    )
