"""Several processes are one program: one voice, one end, and one beginning after a loss."""

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.contract.errors import ContainerKilled, GpuIncompatible, InternalError
from tasks.contract.podlog import Stopped, parse_event
from tasks.tuning.pod.together import train_together

# What every toy begins with; it is called with its folder, and then with what it is started with.
_HEAD = """
import json, os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[1]), int(os.environ["RANK"])
def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
def verdict(reason):
    say("verdict", reason=reason, asked="a", found="f", fix="x", retryable=False)
    sys.exit(1)
beginnings = len(list(folder.glob(f"begun-{rank}-*")))
(folder / f"begun-{rank}-{beginnings}").touch()
"""

Toy = Callable[[str], list[str]]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """The command of a process that does what a text says."""

    def command(body: str) -> list[str]:
        script = tmp_path / "toy.py"
        script.write_text(_HEAD + textwrap.dedent(body))
        return [sys.executable, str(script), str(tmp_path)]

    return command


def begun(folder: Path) -> int:
    return len(list(folder.glob("begun-0-*")))


def test_the_first_process_speaks_for_all(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    command = toy("""
        say("progress", rank=rank)
        say("result", rank=rank, of=os.environ["WORLD_SIZE"])
    """)
    assert train_together(command, processes=3) == {"rank": 0, "of": "3"}
    said = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"event": "progress", "rank": 0}]


def test_the_verdict_is_of_the_process_that_has_a_reason_of_its_own(toy: Toy) -> None:
    command = toy("""
        if rank == 2:
            verdict("GpuIncompatible")
        time.sleep(0.3)
        verdict("InternalError")
    """)
    with pytest.raises(GpuIncompatible):
        train_together(command, processes=3)


def test_a_defect_is_told_once_and_nothing_begins_anew(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(InternalError):
        train_together(toy('verdict("InternalError")'), processes=2)
    assert begun(tmp_path) == 1


def test_the_death_of_one_has_all_begin_anew(toy: Toy, tmp_path: Path) -> None:
    command = toy("""
        if rank == 1 and not beginnings:
            os.kill(os.getpid(), signal.SIGKILL)
        if not beginnings:
            time.sleep(0.3)
            verdict("InternalError")  # as when a connection ends
        say("result", beginnings=beginnings)
    """)
    assert train_together(command, processes=2) == {"beginnings": 1}
    assert begun(tmp_path) == 2


def test_one_that_hangs_on_a_dead_one_is_ended(toy: Toy) -> None:
    command = toy("""
        if rank == 1 and not beginnings:
            os.kill(os.getpid(), signal.SIGKILL)
        if not beginnings:
            time.sleep(600)
        say("result")
    """)
    assert train_together(command, processes=2) == {}


def test_a_process_that_always_dies_ends_the_run(toy: Toy, tmp_path: Path) -> None:
    command = toy("os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(600)")
    with pytest.raises(ContainerKilled) as raised:
        train_together(command, processes=2)
    assert raised.value.found == "process 1 ended with exit code -9, 3 times"
    assert begun(tmp_path) == 3


def test_all_begin_anew_with_passes_that_fit_the_one_with_the_least_memory(toy: Toy) -> None:
    command = toy("""
        asked = os.environ["KAITOFLOW_PASSES"]
        if not asked:
            say("smaller", rows=4 // (rank + 1), recompute=False)
            sys.exit(1)
        say("result", asked=json.loads(asked))
    """)
    answer = train_together(command, processes=2)
    assert answer == {"asked": {"rows": 2, "recompute": False}}


def test_a_signal_reaches_all_and_the_run_ends_once_they_have(toy: Toy, tmp_path: Path) -> None:
    command = toy("""
        def stop(*_):
            time.sleep(0.2)
            (folder / f"saved-{rank}").touch()
            sys.exit(143)
        signal.signal(signal.SIGTERM, stop)
        (folder / f"ready-{rank}").touch()
        time.sleep(600)
    """)

    def ask() -> None:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    with pytest.raises(Stopped):
        train_together(command, processes=2)
    assert len(list(tmp_path.glob("saved-*"))) == 2


def test_processes_leave_no_nonce_to_what_they_print(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAITOFLOW_EVENT_NONCE", "secret")
    command = toy('say("result", seen=os.environ.get("KAITOFLOW_EVENT_NONCE"))')
    assert train_together(command, processes=2) == {"seen": None}
