"""The environment that OpenMP reads."""

import os
import subprocess
import sys

import pytest

from serving.model.cpus import share_cpus


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, None),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_spin_briefly_unless_the_environment_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    share_cpus()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    assert os.environ.get("OMP_WAIT_POLICY") == given.get("OMP_WAIT_POLICY")


@pytest.mark.parametrize("program", ["tasks.tuning.pod", "tasks.evaluation.pod"])
def test_a_program_with_a_model_takes_as_many_threads_as_its_container_has_cpus(
    program: str,
) -> None:
    started = (
        "import os, runpy, serving.model.cpus, sys\n"
        "serving.model.cpus.cpu_quota = lambda: 1\n"
        "try:\n"
        "    runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
        "except SystemExit:\n"
        "    print('threads', os.environ['OMP_NUM_THREADS'], 'torch' in sys.modules)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", started, program, "no-such-config.json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "threads 1 False"
