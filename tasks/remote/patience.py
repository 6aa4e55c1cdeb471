"""Trying again: how long, how often, and which answers are worth it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tasks.contract.errors import KaitoflowError, RegistryDenied, RegistryUnavailable
from tasks.contract.podlog import emit

_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 30.0

Outcome = TypeVar("Outcome")

logger = logging.getLogger(__name__)


class TransientError(Exception):
    """A try that failed for a reason that may pass; never leaves this package.

    Its three parts are those of the error that is raised once patience is over.
    """

    wait_s: float = 0.0

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(asked, found, fix)


@dataclass(frozen=True)
class Patience:
    """Seconds for which a broken, and a refusing, registry is tried again."""

    broken_s: float
    denied_s: float = 0.0


def keep_trying(attempt: Callable[[], Outcome], patience: Patience) -> Outcome:
    """What `attempt` returns, as soon as it does.

    Waits double from try to try; a registry that says how long to wait is obeyed.
    Raises: RegistryUnavailable, RegistryDenied: the last try's failure, once patience is over.
    """
    since_s = time.monotonic()
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return attempt()
        except TransientError as broken:
            limit_s, asked_s = patience.broken_s, broken.wait_s
            error: KaitoflowError = RegistryUnavailable(*broken.args)
            error.__cause__ = broken
        except RegistryDenied as denied:
            limit_s, asked_s, error = patience.denied_s, 0.0, denied
        pause_s = max(wait_s, asked_s)
        if time.monotonic() - since_s + pause_s > limit_s:
            raise error
        _announce(error, pause_s)
        time.sleep(pause_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _announce(error: KaitoflowError, pause_s: float) -> None:
    logger.warning("trying again reason=%s wait_s=%.2f: %s", error.reason, pause_s, error)
    emit(
        "progress",
        {"phase": "wait", "seconds": pause_s, "reason": error.reason, "message": str(error)},
    )
