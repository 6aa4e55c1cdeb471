import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.program import Program

HOLDER = """
import sys, time
from pathlib import Path
from tests.cluster.program import Program
log = Path(sys.argv[1]) / "log"
program = Program("sleeper", ["sh", "-c", "echo here; exec sleep 600"], log)
program.start()
program.wait_until(lambda: "here" in log.read_text(), limit_s=30)
print(program.pid, flush=True)
time.sleep(600)
"""


def test_a_program_that_ends_too_early_shows_its_log(tmp_path: Path) -> None:
    program = Program("refuser", ["sh", "-c", "echo no flags"], tmp_path / "log")
    program.start()
    with pytest.raises(RuntimeError, match=r"(?s)refuser should be ready .* it ended.*no flags"):
        program.wait_until(lambda: False, limit_s=30)


def test_a_program_that_does_not_listen_is_killed_after_the_limit(tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    program = Program("deaf", ["sh", "-c", deaf], tmp_path / "log")
    program.start()
    program.wait_until(lambda: "deaf" in program.log.read_text(), limit_s=30)
    program.stop(limit_s=0.3)
    assert program.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux'")
def test_a_program_ends_when_the_tests_are_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder.stdout as said:
        pid = int(said.readline())
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    deadline_s = time.monotonic() + 30
    while _runs(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether it does; a zombie waits for the machine's first process to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stands_still(program: Program, *, wanted: bool) -> bool:
    """Whether it comes to that: the kernel hands a signal over a little later."""
    process, deadline_s = psutil.Process(program.pid), time.monotonic() + 20
    while (process.status() == psutil.STATUS_STOPPED) != wanted and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return bool(process.status() == psutil.STATUS_STOPPED)


def test_a_paused_program_stands_still_until_it_goes_on(tmp_path: Path) -> None:
    program = Program("sleeper", ["sleep", "600"], tmp_path / "log")
    program.start()
    program.pause()
    assert stands_still(program, wanted=True)
    program.resume()
    assert not stands_still(program, wanted=False)
    program.stop()


def test_a_paused_program_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    program = Program("sleeper", ["sleep", "600"], tmp_path / "log")
    program.start()
    program.pause()
    began_s = time.monotonic()
    program.stop(limit_s=60)
    assert time.monotonic() - began_s < 30
