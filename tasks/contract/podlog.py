"""What a pod program says, and how its platform reads it.

A pod program writes plain log lines to stderr and, to stdout, one JSON object a line, each with the
key `event`:

    progress   where the work stands (step, steps, and whatever the program measures)
    result     the last line of a run that ended well: the program's outcome
    verdict    the last line of a run that did not: reason (an error class) with what was asked,
               what was found and what to do; retryable

The local platform sends both streams to one file, Kubernetes to one container log; `parse_event`
tells events from log lines. Each event carries the nonce that its platform put into the container's
environment, so that no text of others, however it gets into the log, becomes an event.

Exit codes: 0 result, 1 failed, 3 refused, 75 failed in a way that may go well the next time, 143
asked to stop.
"""

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tasks.contract.errors import (
    DiskFull,
    InternalError,
    KaitoflowError,
    OutOfMemory,
    error_from_reason,
)
from tasks.contract.redaction import OneLineFormatter, keep_secrets_out_of_logs, redacted

# EX_TEMPFAIL of sysexits.h: a Job starts a new pod after it, and not after 1 or 3.
_TRY_AGAIN = 75
_NONCE = "nonce"
EVENT_NONCE = "KAITOFLOW_EVENT_NONCE"

logger = logging.getLogger(__name__)

Config = TypeVar("Config")
Answer = TypeVar("Answer")
Event = dict[str, Any]


class Stopped(SystemExit):
    """SIGTERM arrived; carries exit code 143 through every `finally`."""

    def __init__(self) -> None:
        super().__init__(143)


def emit(event: str, fields: Mapping[str, Any]) -> None:
    """Write one event line, whole and at once; no secret of a URL is in it."""
    nonce = os.environ.get(EVENT_NONCE)
    whole = {"event": event, **fields} | ({_NONCE: nonce} if nonce else {})
    sys.stdout.write(redacted(json.dumps(whole, default=str)) + "\n")
    sys.stdout.flush()


def parse_event(line: str, *, nonce: str = "") -> Event | None:
    """The event in a log line; None for an ordinary log line.

    Args: nonce: of the container whose line it is; "" believes every line, which is for showing it.
    """
    if not line.startswith("{"):
        return None
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("event"), str):
        return None
    said_nonce = parsed.pop(_NONCE, "")
    return parsed if said_nonce == nonce or not nonce else None


def read_answer(answers: type[Answer], fields: Mapping[str, Any]) -> Answer:
    """What a program answered, from the fields of its `result` event.

    Raises: InternalError: they are not of this type, as from a program of another version.
    """
    try:
        return TypeAdapter(answers).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InternalError(
            f"a {answers.__name__} was expected of a pod program",
            f"its answer cannot be read ({first['loc']}: {first['msg']})",
            "use a pod image of the same version",
        ) from None


def verdict_error(verdict: Event) -> KaitoflowError:
    """The typed error that a program's `verdict` event stands for.

    Pods of an older version are still there after an upgrade: they told one `message`.
    """
    parts = {part: str(verdict.get(part, "")) for part in ("asked", "found", "fix")}
    parts["found"] = parts["found"] or str(verdict.get("message", ""))
    return error_from_reason(str(verdict.get("reason", "")), **parts)


def run_program(config_type: type[Config], main: Callable[[Config], Any], argv: list[str]) -> int:
    """Run a pod program: read its config file (the only argument), report, return the exit code.

    What `main` answers, a frozen dataclass of `tasks.contract.programs`, becomes the fields of the
    `result` event; `read_answer` gives it back. A KaitoflowError becomes a verdict, a full disk
    and exhausted memory become theirs, anything else an InternalError with its trace on stderr.
    """
    _log_to_stderr()
    signal.signal(signal.SIGTERM, _stop)
    try:
        config = TypeAdapter(config_type).validate_json(Path(argv[1]).read_bytes())
        answer = main(config)
        emit("result", TypeAdapter(type(answer)).dump_python(answer, mode="json"))
    except Exception as error:  # noqa: BLE001  the edge: every error becomes a verdict
        return end_with(_typed(error))
    return 0


def _log_to_stderr() -> None:
    keep_secrets_out_of_logs()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    level = os.environ.get("KAITOFLOW_LOG_LEVEL", "INFO")
    logging.basicConfig(level=level, handlers=[handler])


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


def _typed(error: Exception) -> KaitoflowError:
    if isinstance(error, KaitoflowError):
        return error
    if is_disk_full(error):
        file = getattr(error, "filename", None) or "a file"
        return DiskFull(
            f"cannot write {file}",
            "no space left",
            "free some disk",
        )
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return OutOfMemory(
            "the program asked for memory",
            f"there is none left ({error})",
            "lower the batch size or length",
        )
    logger.error("ended by a defect", exc_info=error)
    return InternalError(
        f"{type(error).__name__}",
        f"{error}",
        "please report it with the log above",
    )


# What libraries in Rust say, and then torch, which tells of a failed write by these alone.
_DISK_FULL_WORDS = (
    *("No space left on device", "Disk quota exceeded"),
    *("iostream error", "inline_container", "PytorchStreamWriter failed writing"),
)


def is_disk_full(error: BaseException) -> bool:
    """Tell a full disk by its number, or by the words of libraries that keep no number."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(words in str(error) for words in _DISK_FULL_WORDS)


def end_with(error: KaitoflowError) -> int:
    """The exit code of a program that ends with this error; its verdict is said."""
    emit(
        "verdict",
        {
            "reason": error.reason,
            "asked": error.asked,
            "found": error.found,
            "fix": error.fix,
            "retryable": error.retryable,
        },
    )
    return _TRY_AGAIN if error.retryable else error.exit_code
