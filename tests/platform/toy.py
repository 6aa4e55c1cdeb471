"""A pod program that does as it is told; run as `python -m tests.platform.toy CONFIG.json`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contract.errors import DatasetUnreadable
from tasks.contract.podlog import emit, run_program


@dataclass(frozen=True)
class ToyConfig:
    """What the toy does: work, wait, refuse, crash, ... ; `starts` gets a line at each start."""

    does: str = "work"
    starts: Path | None = None


def main(config: ToyConfig) -> dict[str, Any]:
    """Do it."""
    if config.starts:
        with config.starts.open("a") as file:
            file.write("started\n")
    emit("progress", {"step": 1, "steps": 2})
    if config.does == "wait":
        time.sleep(60)
    if config.does == "work slowly":
        time.sleep(1.5)
    if config.does == "refuse":
        raise DatasetUnreadable("asked; found; do")
    if config.does == "crash":
        raise KeyError("x")
    if config.does == "fill the disk":
        Path("/dev/full").write_text("x")
    if config.does == "eat the memory":
        raise MemoryError
    return {"answer": 42}


if __name__ == "__main__":
    sys.exit(run_program(ToyConfig, main, sys.argv))
