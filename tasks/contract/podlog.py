"""What a pod program says, and how its platform reads it.

A pod program writes plain log lines to stderr and, to stdout, one JSON object a line, each with the
key `event`:

    progress   where the work stands (step, steps, and whatever the program measures)
    result     the last line of a run that ended well: the program's outcome
    verdict    the last line of a run that did not: reason (an error class), message, retryable

The local platform sends both streams to one file, Kubernetes to one container log; `parse_event`
tells events from log lines. Exit codes: 0 result, 1 failed, 3 refused, 75 failed in a way that may
go well the next time, 143 asked to stop.
"""

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from pydantic import TypeAdapter

from tasks.contract.errors import DiskFull, InternalError, KaitoflowError, OutOfMemory

# EX_TEMPFAIL of sysexits.h: a Job starts a new pod after it, and not after 1 or 3.
_TRY_AGAIN = 75

Config = TypeVar("Config")
Event = dict[str, Any]


class Stopped(SystemExit):
    """SIGTERM arrived; carries exit code 143 through every `finally`."""

    def __init__(self) -> None:
        super().__init__(143)


def emit(event: str, fields: Mapping[str, Any]) -> None:
    """Write one event line, whole and at once."""
    sys.stdout.write(json.dumps({"event": event, **fields}, default=str) + "\n")
    sys.stdout.flush()


def parse_event(line: str) -> Event | None:
    """The event in a log line; None for an ordinary log line."""
    if not line.startswith("{"):
        return None
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("event"), str) else None


def run_program(
    config_type: type[Config], main: Callable[[Config], Mapping[str, Any]], argv: list[str]
) -> int:
    """Run a pod program: read its config file (the only argument), report, return the exit code.

    `main` returns the fields of the `result` event. A KaitoflowError becomes a verdict, a full disk
    and exhausted memory become theirs, anything else an InternalError with its trace on stderr.
    """
    logging.basicConfig(
        level=os.environ.get("KAITOFLOW_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    signal.signal(signal.SIGTERM, _stop)
    config = TypeAdapter(config_type).validate_json(Path(argv[1]).read_bytes())
    try:
        emit("result", main(config))
    except Exception as error:  # noqa: BLE001  the edge: every error becomes a verdict
        return _report(_typed(error))
    return 0


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


def _typed(error: Exception) -> KaitoflowError:
    if isinstance(error, KaitoflowError):
        return error
    if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
        return DiskFull(f"cannot write {error.filename or 'a file'}: no space left; free some disk")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return OutOfMemory(
            f"the program ran out of memory ({error}); lower the batch size or length"
        )
    traceback.print_exception(error)
    return InternalError(f"{type(error).__name__}: {error}; please report it with the log above")


def _report(error: KaitoflowError) -> int:
    emit(
        "verdict",
        {"reason": error.reason, "message": str(error), "retryable": error.retryable},
    )
    return _TRY_AGAIN if error.retryable else error.exit_code
