"""With CI=true a skipped test fails the run, unless its reason is allowed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = """
[pytest]
allowed_skips =
    needs an NVIDIA GPU
"""


def run_pytest(folder: Path, test: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    """A pytest of its own over one test file, with nothing but our plugin."""
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_it.py").write_text(f"import pytest\n{test}")
    program = [sys.executable, "-m", "pytest", "-p", "tests.strict_skips", str(folder)]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **alone, "CI": ci}
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)


SKIPPED_TEST = "def test_it():\n    pytest.skip('{}')\n"
SKIPPED_MODULE = "pytest.skip('{}', allow_module_level=True)\n"


@pytest.mark.parametrize("test", [SKIPPED_TEST, SKIPPED_MODULE])
def test_a_skip_fails_in_ci_and_says_what_to_do(tmp_path: Path, test: str) -> None:
    done = run_pytest(tmp_path, test.format("no registry"), ci="true")
    assert done.returncode != 0
    assert "no registry); install what it needs, or add the reason" in done.stdout


@pytest.mark.parametrize(("reason", "ci"), [("no registry", ""), ("needs an NVIDIA GPU", "true")])
def test_a_skip_passes_elsewhere_and_for_an_allowed_reason(
    tmp_path: Path, reason: str, ci: str
) -> None:
    test = SKIPPED_TEST.format(reason) + "def test_other():\n    pass\n"
    assert run_pytest(tmp_path, test, ci=ci).returncode == 0


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    test = "@pytest.mark.xfail\ndef test_it():\n    raise ValueError\n"
    assert run_pytest(tmp_path, test, ci="true").returncode == 0


def test_no_test_at_all_is_a_failure(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, "", ci="true").returncode == 5
