"""The runs of a command of this machine, told apart from all others, however the command ends.

Prefect hears nothing of a process that is killed, and would show its run as Running for ever. So a
command holds a file locked as long as it lives, and its runs have the file's name as their tag: of
a file that nobody holds the command was killed, and whoever comes next ends its runs in Prefect.
"""

import asyncio
import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from flows.prefect_api import PrefectApi
from flows.prefect_server import PrefectServer
from tasks.contract.errors import KaitoflowError
from tasks.settings import settings

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 10.0
_KILLED = "its command was killed; give it again, and it goes on with what is there"


@contextlib.contextmanager
def own_tag(server: PrefectServer) -> Iterator[str]:
    """The tag that the runs of this process are to have on a Prefect server."""
    tag = f"command:{uuid4().hex[:12]}"
    _folder().mkdir(parents=True, exist_ok=True)
    made = _folder() / f".{tag}"
    with made.open("x") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(_name(server))
        held.flush()
        file = made.rename(_folder() / tag)  # not before it is held: it would be one of a killed
        try:
            yield tag
        finally:
            file.unlink(missing_ok=True)


async def end_runs_of_killed(api: PrefectApi, server: PrefectServer) -> None:
    """Have Prefect know of each command that was killed that its runs have ended.

    Raises: PrefectUnavailable; then it is not forgotten.
    """
    for file in _killed(server):
        for run in await api.alive_runs(file.name):
            logger.info("run of a killed command ended run=%s", run.name)
            await api.end(run, "CRASHED", message=_KILLED)
        file.unlink(missing_ok=True)


async def keep_ending_runs_of_killed(api: PrefectApi, server: PrefectServer) -> None:
    """Ensure it for ever; what cannot be told now is told at a later look."""
    while True:
        try:
            await end_runs_of_killed(api, server)
        except KaitoflowError as error:
            logger.warning("runs of killed commands not looked at: %s", error)
        await asyncio.sleep(_LOOK_AGAIN_S)


async def cancel_own_runs(api: PrefectApi, tag: str) -> None:
    """Tell Prefect that a person ended the runs; it takes their cancellation for a crash.

    Raises: PrefectUnavailable.
    """
    for run in await api.runs_with([tag]):
        if run.state_type not in ("COMPLETED", "FAILED"):
            await api.end(run, "CANCELLED", message="stopped by the user")


def _killed(server: PrefectServer) -> list[Path]:
    """The files of the commands that were killed while they had runs on this server."""
    return [file for file in sorted(_folder().glob("command:*")) if _is_left(file, server)]


def _is_left(file: Path, server: PrefectServer) -> bool:
    with contextlib.suppress(FileNotFoundError), file.open("r+") as left:
        try:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return left.read() == _name(server)
    return False


def _name(server: PrefectServer) -> str:
    """The server as it is found again: ours has its runs also on another port."""
    return "" if server.process else server.api_url


def _folder() -> Path:
    return settings().home_dir / "prefect" / "commands"
