"""Questions to others that may block: each in a thread that nobody has to wait for.

The threads are daemons and not a pool's, since Python waits for a pool's threads before it ends:
a server that never answers holds up neither the loop that all runs share nor the end of a process.
"""

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from tasks.contract.errors import KaitoflowError

# Each takes a few milliseconds of a core and then waits for the network. Two hundred Workspaces
# that are planned at once are all asked for within seconds; none is left out.
AT_ONCE = 16

T = TypeVar("T")

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def ask(question: Callable[[], T], *, limit_s: float) -> T:
    """What `question` returns, once it is its turn.

    Args: limit_s: counts from when it begins: one that has to queue is not the later given up.
    Raises: TimeoutError: there was no answer. What the question raises.
    """
    # asyncio's semaphores belong to a loop, and a process may have several.
    turns = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    async with turns, asyncio.timeout(limit_s):
        # A thread that is given up gives its turn away, and ends by its connection's time-outs.
        return await asyncio.wrap_future(_begun(question))


def no_answer(silence: type[KaitoflowError], whom: str, limit_s: float) -> KaitoflowError:
    """What it means that somebody did not answer in time."""
    return silence(
        f"{whom} was asked",
        f"there was no answer within {limit_s:g} s",
        "run the plan again, or raise KAITOFLOW_PLAN_TIMEOUT_S",
    )


@contextlib.contextmanager
def login_file(content: bytes | None) -> Iterator[Path | None]:
    """A docker config as a file, which is gone with its folder; None where there is none."""
    if content is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        login = Path(folder) / "docker.json"
        login.touch(mode=0o600)
        login.write_bytes(content)
        yield login


def _begun(question: Callable[[], T]) -> Future[T]:
    answer: Future[T] = Future()
    answer.set_running_or_notify_cancel()  # given up or not, the thread may answer
    threading.Thread(target=_answer, args=(question, answer), daemon=True).start()
    return answer


def _answer(question: Callable[[], T], answer: Future[T]) -> None:
    try:
        answer.set_result(question())
    except BaseException as error:  # noqa: BLE001  whoever asked gets it
        answer.set_exception(error)
