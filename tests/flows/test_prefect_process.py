"""Prefect's server runs as our other processes do."""

import gc
import subprocess
import sys

from flows.heap import settle_heap


def test_prefects_command_line_is_prefects() -> None:
    ours, theirs = (
        subprocess.run([sys.executable, "-m", module, "version"], capture_output=True, check=True)
        for module in ("flows.prefect_process", "prefect")
    )
    assert ours.stdout == theirs.stdout
    assert b"3.8" in ours.stdout


def test_what_is_loaded_is_not_looked_at_again() -> None:
    before = gc.get_threshold()
    try:
        settle_heap()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() > before
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
