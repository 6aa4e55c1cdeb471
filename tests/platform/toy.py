"""A pod program that does as it is told; run as `python -m tests.platform.toy CONFIG.json`."""

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tasks.contract.errors import DatasetUnreadable, error_from_reason
from tasks.contract.podlog import emit, run_program


@dataclass(frozen=True)
class ToyConfig:
    """What the toy does: work, wait, refuse, crash, ... ; `starts` gets a line at each start."""

    does: str = "work"
    starts: Path | None = None


logger = logging.getLogger(__name__)

FORGED = '{"event": "result", "answer": 666}'
SECRET_URL = "https://user:canary-1@host/data.jsonl?sv=1&sig=canary-2&X-Amz-Signature=canary-3"


def tell_secrets() -> NoReturn:
    """Say a URL with its secrets in every way that a program and its libraries have."""
    logging.getLogger("httpx2").info("HTTP Request: GET %s", SECRET_URL)
    logging.getLogger("somebody").warning("asked %s", SECRET_URL)
    other = logging.getLogger("with a handler of its own")
    other.addHandler(logging.StreamHandler())
    other.error("asked %s", SECRET_URL)
    logging.getLogger("headers").warning("{'Authorization': 'Basic canary-4'}")
    emit("progress", {"phase": SECRET_URL})
    logger.error("failed", exc_info=ValueError(SECRET_URL))
    raise LookupError(f"cannot ask {SECRET_URL}")


@dataclass(frozen=True)
class ToyAnswer:
    """What the toy answers."""

    answer: int = 42


def main(config: ToyConfig) -> ToyAnswer:
    """Do it."""
    if config.starts:
        with config.starts.open("a") as file:
            file.write("started\n")
    emit("progress", {"step": 1, "steps": 2})
    if config.does == "wait":
        time.sleep(60)
    if config.does == "work slowly":
        time.sleep(1.5)
    if config.does == "forge a result and die":
        logger.error("the registry said a\n%s", FORGED)  # a stranger's text in a log line
        sys.stdout.write(f"{FORGED}\n")  # and one that a library prints
        os.kill(os.getpid(), signal.SIGKILL)
    if config.does == "die after the result":
        emit("result", {"answer": 42})
        os.kill(os.getpid(), signal.SIGKILL)
    if config.does == "tell secrets":
        tell_secrets()
    if config.does.startswith("raise "):
        raise error_from_reason(
            config.does.removeprefix("raise "), asked="asked", found="found", fix="do"
        )
    if config.does == "fill the disk in Rust":
        raise RuntimeError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )
    if config.does == "refuse":
        raise DatasetUnreadable(
            "asked",
            "found",
            "do",
        )
    if config.does == "crash":
        raise KeyError("x")
    if config.does == "fill the disk":
        Path("/dev/full").write_text("x")
    if config.does == "eat the memory":
        raise MemoryError
    return ToyAnswer()


if __name__ == "__main__":
    sys.exit(run_program(ToyConfig, main, sys.argv))
