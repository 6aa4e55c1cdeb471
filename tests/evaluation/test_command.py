"""A command of the user's own runs as a process that is bounded in every way, and ends with us."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.contract.errors import GateCommandFailed, GateCommandUnusable
from tasks.contract.programs.evaluation import CommandConfig
from tasks.evaluation.pod.command import run_command


def config(script: str, **variables: str) -> CommandConfig:
    words = (sys.executable, "-c", script)
    return CommandConfig(image="", words=words, environment=tuple(variables.items()))


def test_what_it_prints_last_of_json_is_what_it_says_of_scores(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = run_command(config("print('scoring'); print('{\"candidate\": 1}'); print('done')"))
    assert told.said == '{"candidate": 1}'
    assert capfd.readouterr().err.splitlines() == ["scoring", '{"candidate": 1}', "done"]


def test_it_finds_what_it_scores_and_nothing_by_which_our_events_are_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAITOFLOW_EVENT_NONCE", "canary")
    told = run_command(
        config(
            "import os; print({k: v for k, v in os.environ.items() if k.startswith('KAITOFLOW')})",
            KAITOFLOW_GATE_ROWS="/rows",
        )
    )
    assert told.said == "{'KAITOFLOW_GATE_ROWS': '/rows'}"


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("print('no rows'); raise SystemExit(2)", r"with exit code 2 .*it said: no rows\)"),
        ("import os; os.kill(os.getpid(), 9)", r"by signal 9 .*it said: nothing\)"),
    ],
)
def test_one_that_fails_is_told_with_its_last_words(script: str, ended: str) -> None:
    with pytest.raises(GateCommandFailed, match=ended):
        run_command(config(script))


def test_one_that_is_not_there_is_told_so() -> None:
    absent = CommandConfig(image="", words=("/nowhere/score",), environment=())
    with pytest.raises(GateCommandFailed, match=r"before it began .*No such file"):
        run_command(absent)


def test_one_that_prints_without_end_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = (
        "import subprocess, sys\n"
        f"one = subprocess.Popen(['sleep', '300'])\nopen({str(child)!r}, 'w').write(str(one.pid))\n"
        "while True: sys.stdout.write('x' * 65536)"
    )
    with pytest.raises(GateCommandUnusable, match="more than 4 MiB"):
        run_command(config(script))
    assert not is_running(int(child.read_text()))


def is_running(pid: int) -> bool:
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.05)
    return True


def test_the_program_imports_none_of_what_takes_long_to_import() -> None:
    script = "import sys, tasks.evaluation.pod.command; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
