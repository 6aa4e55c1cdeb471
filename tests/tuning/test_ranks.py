"""A model that several processes train learns what it would learn of one, from the same rows."""

import json
import signal
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tasks.contract.podlog import parse_event
from tasks.contract.programs.tuning import TuningConfig
from tests.tuning.runs import Runs, events_in, losses
from tests.tuning.tiny import chats, write_rows, write_tiny_weights

pytestmark = pytest.mark.slow

# Of 21 rows the last step of an epoch has five, which neither two processes nor four share evenly.
ROWS, STEPS = 21, 9
ASKED = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": 2,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    weights = write_tiny_weights(folder / "model")
    rows = write_rows(folder / "train.jsonl", chats(ROWS))
    return Runs(folder, weights_dir=weights, train_file=rows)


@pytest.fixture(scope="module")
def alone(runs: Runs) -> TuningConfig:
    """The run of one process that the others are held to."""
    config = runs.config("alone", training=ASKED)
    assert runs.finish(config).code == 0
    return config


def tokens(config: TuningConfig) -> int:
    read: dict[str, Any] = json.loads((config.results_dir / "metrics.json").read_text())
    return int(read["tokens"])


def of(processes: int, runs: Runs, name: str) -> TuningConfig:
    return replace(runs.config(name, training=ASKED), processes=processes)


@pytest.mark.parametrize("processes", [2, 4])
def test_as_many_processes_as_there_are_learn_the_same(
    runs: Runs, alone: TuningConfig, processes: int
) -> None:
    config = of(processes, runs, f"of{processes}")
    said = runs.finish(config)
    assert said.code == 0, said.log
    assert losses(config) == pytest.approx(losses(alone), abs=1e-3)
    assert tokens(config) == tokens(alone)
    assert [event["step"] for event in said.steps] == list(range(1, STEPS + 1))


def test_a_run_that_is_stopped_goes_on_with_another_number_of_processes(
    runs: Runs, alone: TuningConfig
) -> None:
    config = of(2, runs, "stopped")
    program = runs.start(config)
    read_to_step(program, 4)
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=500)
    assert program.returncode == 143
    said = runs.finish(replace(config, processes=1))
    assert said.code == 0, said.log
    assert said.steps[0]["step"] > 4
    assert losses(config) == pytest.approx(losses(alone), abs=1e-3)


def test_the_death_of_one_process_costs_the_steps_since_the_last_checkpoint(
    runs: Runs, alone: TuningConfig
) -> None:
    config = of(2, runs, "killed")
    program = runs.start(config)
    read_to_step(program, 4)
    victim = next(
        each for each in psutil.Process(program.pid).children() if each.cmdline()[-1] == "rank-1"
    )
    victim.kill()
    out, log = program.communicate(timeout=500)
    assert program.returncode == 0, log
    assert events_in(out)[-1]["event"] == "result"
    assert "process 1 ended with exit code -9: all begin anew" in log
    assert losses(config) == pytest.approx(losses(alone), abs=1e-3)


def test_processes_end_with_the_one_that_started_them(runs: Runs) -> None:
    program = runs.start(of(2, runs, "orphans"))
    read_to_step(program, 1)
    ranks = psutil.Process(program.pid).children()
    program.kill()
    program.communicate(timeout=60)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive


def read_to_step(program: Any, step: int) -> None:
    assert program.stdout
    for line in program.stdout:
        event = parse_event(line) or {}
        assert event.get("event") != "verdict", event
        if event.get("step") == step:
            return
