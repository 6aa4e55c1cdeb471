"""The program as a platform runs it: exit codes, what it says, and how it survives being killed."""

import signal
import subprocess
from pathlib import Path

import pytest
import torch

from tasks.contract.podlog import parse_event
from tasks.contract.programs.tuning import TuningConfig
from tasks.tuning.pod.train import main
from tests.tuning.runs import Runs, events_in, losses

SAVING = {"num_train_epochs": 5, "save_strategy": "steps", "save_steps": 5}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def read_until(program: "subprocess.Popen[str]", step: int) -> None:
    assert program.stdout
    for line in program.stdout:
        event = parse_event(line) or {}
        assert event.get("event") != "verdict", event
        if event.get("step") == step:
            return


def losses_of_a_whole_run(runs: Runs) -> list[float]:
    config = runs.config("whole", training=SAVING)
    main(config)
    return losses(config)


def interrupt(runs: Runs, config: TuningConfig, *, signal_number: int) -> int:
    program = runs.start(config)
    read_until(program, 13)
    program.send_signal(signal_number)
    program.communicate(timeout=300)
    return program.returncode


def checkpoints(config: TuningConfig) -> list[Path]:
    return list((config.results_dir / "checkpoints").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_ends_with_its_result_and_nothing_else_on_its_output(runs: Runs) -> None:
    program = runs.start(runs.config())
    out, log = program.communicate(timeout=500)
    assert program.returncode == 0
    assert len(out.splitlines()) == len(events_in(out))
    assert events_in(out)[-1]["event"] == "result"
    assert "kernels-community" not in log
    assert "Warning" not in log


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(runs: Runs) -> None:
    config = runs.config(training=SAVING)
    assert interrupt(runs, config, signal_number=signal.SIGKILL) == -signal.SIGKILL
    resumed = runs.finish(config)
    assert "run resumed checkpoint=checkpoint-10" in resumed.log
    assert resumed.steps[0]["step"] == 11
    assert losses(config) == losses_of_a_whole_run(runs)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_first_and_goes_on_from_there(runs: Runs) -> None:
    config = runs.config(training=SAVING | {"save_strategy": "no"})
    assert interrupt(runs, config, signal_number=signal.SIGTERM) == 143
    (saved,) = checkpoints(config)
    resumed = runs.finish(config)
    assert f"run resumed checkpoint={saved.name}" in resumed.log
    assert losses(config) == losses_of_a_whole_run(runs)
    assert not checkpoints(config)


def test_a_refused_configuration_costs_no_time_and_has_exit_code_3(runs: Runs) -> None:
    config = runs.config(training={"learning_rat": 1})
    said = runs.finish(config)
    assert said.code == 3
    assert said.last["reason"] == "InvalidTuningConfig"
    assert "did you mean learning_rate?" in said.last["found"]
    assert [event["event"] for event in said.events] == ["verdict"]
