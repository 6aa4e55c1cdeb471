"""With CI=true what fails is run once more, told when it passes then, and only a few may."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.few_reruns import MOST_RERUN

ROOT = Path(__file__).parent.parent
FAILS_ONCE = """
from pathlib import Path

import pytest


@pytest.mark.parametrize("n", range({failing}))
def test_it(n):
    seen = Path(__file__).parent / str(n)
    if not seen.exists():
        seen.touch()
        raise ValueError(f"the first time of {{n}}")
"""


def run_pytest(folder: Path, test: str, *, ci: str = "true") -> subprocess.CompletedProcess[str]:
    """A pytest of its own over one test file, in two processes, with nothing but these plugins."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(test)
    plugins = ("pytest_rerunfailures", "xdist", "tests.few_reruns")
    program = [sys.executable, "-m", "pytest", *(f"-p{plugin}" for plugin in plugins), "-n2"]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **alone, "CI": ci}
    return subprocess.run(
        [*program, str(folder)], env=environment, capture_output=True, text=True, check=False
    )


def test_what_failed_once_passes_and_is_told_with_its_reason(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, FAILS_ONCE.format(failing=1))
    assert done.returncode == 0, done.stdout
    assert "FAILED ONCE test_it.py::test_it[0]" in done.stdout
    assert "the first time of 0" in done.stdout


def test_many_that_fail_once_are_no_chance(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, FAILS_ONCE.format(failing=MOST_RERUN + 1))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert f"failed once: {MOST_RERUN + 1}, at most {MOST_RERUN} may" in done.stdout


def test_what_fails_twice_fails(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "def test_it():\n    raise ValueError\n")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout


def test_nothing_is_run_again_elsewhere(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, FAILS_ONCE.format(failing=1), ci="")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
