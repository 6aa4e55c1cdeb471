"""A run that was broken off goes on as if it had not been: same rows, same losses."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contract.podlog import Stopped
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.shapes import TuningShape
from tasks.tuning.pod import memory
from tasks.tuning.pod.train import main
from tasks.tuning.pod.trainer import AnswerTrainer
from tests.tuning.runs import Runs, losses
from tests.tuning.tiny import tiny_llama, tiny_tokenizer

# Passes of their own, and random numbers in each: what is not put back shows.
ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
DROPOUT: dict[str, Any] = {"LoraConfig": {"lora_dropout": 0.2}}

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The rows of all training passes, each without its padding, in the order they were taken."""
    taken: list[tuple[int, ...]] = []
    step: Any = AnswerTrainer.training_step

    def record(self: AnswerTrainer, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            taken.append(tuple(row[mask.bool()].tolist()))
        return step(self, model, inputs, *args)

    monkeypatch.setattr(AnswerTrainer, "training_step", record)
    return taken


def stop_at(call: int, config: TuningConfig) -> None:
    """Run until SIGTERM comes in the middle of the forward pass of that number."""
    calls = iter(range(1, 10_000))
    forward = AnswerTrainer.compute_loss

    def compute_loss(self: AnswerTrainer, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerTrainer, "compute_loss", compute_loss)
        with pytest.raises(Stopped):
            main(config)


def kept(config: TuningConfig) -> list[str]:
    return sorted(path.name for path in (config.results_dir / "checkpoints").iterdir())


def whole(runs: Runs, **settings: Any) -> list[float]:
    config = runs.config("whole", **settings)
    main(config)
    return losses(config)


@pytest.mark.parametrize(
    ("passed", "checkpoint"), [(7, "checkpoint-2"), (8, "checkpoint-2"), (9, "checkpoint-3")]
)
def test_a_run_stops_between_two_passes_and_goes_on_as_if_it_had_not(
    runs: Runs, passed: int, checkpoint: str
) -> None:
    config = runs.config(training=ACCUMULATED, **DROPOUT)
    stop_at(passed, config)
    assert kept(config) == [checkpoint]
    result = main(config)
    assert result["notes"] == [f"went on from step {checkpoint[-1]} of 4"]
    assert losses(config) == whole(runs, training=ACCUMULATED, **DROPOUT)


def test_a_run_that_was_stopped_publishes_the_bytes_of_one_that_was_not(runs: Runs) -> None:
    held_out: dict[str, Any] = {"DatasetConfig": {"train_test_split": 0.75}} | DROPOUT
    stopped = runs.config("stopped", training=ACCUMULATED, **held_out)
    stop_at(8, stopped)
    unbroken = runs.config("unbroken", training=ACCUMULATED, **held_out)
    folders = [Path(main(each)["adapter"]) for each in (stopped, unbroken)]
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert first == second


def test_a_run_that_has_no_whole_step_yet_leaves_nothing(runs: Runs) -> None:
    config = runs.config(training=ACCUMULATED)
    stop_at(2, config)
    assert kept(config) == []


def test_a_run_stops_in_the_middle_of_an_evaluation(runs: Runs) -> None:
    watched: dict[str, Any] = {
        "training": {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1},
        "DatasetConfig": {"train_test_split": 0.75},
    } | DROPOUT
    config = runs.config(**watched)
    stop_at(4, config)
    assert kept(config) == ["checkpoint-2"]
    main(config)
    unbroken = runs.config("unbroken", **watched)
    main(unbroken)
    assert training_losses(config) == training_losses(unbroken)


def training_losses(config: TuningConfig) -> list[float]:
    metrics = json.loads((config.results_dir / "adapter" / "metrics.json").read_text())
    return [line["loss"] for line in metrics["history"] if "loss" in line]


def test_a_smaller_machine_takes_the_same_rows_in_the_same_order(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, ...]]
) -> None:
    free: dict[str, Any] = {"training": {"per_device_train_batch_size": None}}
    expected = whole(runs, **free)
    order = list(seen)
    seen.clear()
    config = runs.config(**free)
    stop_at(3, config)
    monkeypatch.setattr(memory, "batch_that_fits", at_most(1))
    main(config)
    assert seen == order
    assert losses(config) == pytest.approx(expected, rel=1e-2)


def at_most(rows: int) -> Callable[..., TuningShape]:
    return lambda _shape, wanted, **_: replace(wanted, rows=rows)


@pytest.mark.parametrize(
    "changed",
    [
        {"logging_steps": 2},
        {"save_steps": 3},
        {"save_strategy": "epoch"},
        {"save_total_limit": 1},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_settings_that_decide_nothing_cost_no_step(
    runs: Runs, seen: list[tuple[int, ...]], changed: dict[str, Any]
) -> None:
    config = stopped_after(runs, 4)
    seen.clear()
    result = main(runs.config(training=SAVING | changed))
    assert (len(seen), result["notes"]) == (8, ["went on from step 4 of 6"])
    assert config.results_dir == Path(result["adapter"]).parent


def test_more_epochs_are_added_to_those_that_were_trained(runs: Runs) -> None:
    stopped_after(runs, 4)
    result = main(runs.config(training=SAVING | {"num_train_epochs": 2}))
    assert (result["steps"], result["notes"]) == (12, ["went on from step 4 of 12"])


def test_fewer_steps_than_were_trained_go_on_from_before_them(runs: Runs) -> None:
    stopped_after(runs, 4)
    result = main(runs.config(training=SAVING | {"max_steps": 3}))
    assert result["steps"] == 3
    assert result["notes"][-1] == "went on from step 2 of 3"


def test_another_learning_rate_begins_anew_and_says_what_it_leaves(runs: Runs) -> None:
    stopped_after(runs, 4)
    result = main(runs.config(training=SAVING | {"learning_rate": 0.02}))
    assert result["steps"] == 6
    assert (
        "checkpoint-4 is of other settings (settings.training.learning_rate)"
        in (result["notes"][0])
    )


def test_other_weights_of_the_same_name_begin_anew(runs: Runs, tmp_path: Path) -> None:
    stopped_after(runs, 4)
    weights = tmp_path / "other"
    tiny_llama(seed=1).save_pretrained(weights)
    tiny_tokenizer().save_pretrained(weights)
    result = main(replace(runs.config(training=SAVING), weights_dir=weights))
    assert "of other settings (weights.model.safetensors)" in result["notes"][0]


def stopped_after(runs: Runs, step: int) -> TuningConfig:
    """A run of six steps whose program was killed: what it had sealed until then is there."""
    config = runs.config(training=SAVING)
    save = AnswerTrainer._save_checkpoint

    def killed(self: AnswerTrainer, *args: Any) -> None:
        save(self, *args)
        if self.state.global_step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerTrainer, "_save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    return config


def full_disk_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Each of these steps finds the disk full once."""
    left = list(steps)
    save = AnswerTrainer._save_optimizer_and_scheduler

    def write(self: AnswerTrainer, folder: str) -> None:
        if left and self.state.global_step == left[0]:
            left.pop(0)
            torch.save({"values": torch.zeros(1_000_000)}, "/dev/full")
        save(self, folder)

    monkeypatch.setattr(AnswerTrainer, "_save_optimizer_and_scheduler", write)


def test_a_full_disk_costs_the_oldest_checkpoint_and_the_run_goes_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk_at(monkeypatch, 4)
    config = runs.config(training=SAVING)
    result = main(config)
    assert result["steps"] == 6
    assert result["notes"] == ["the disk was full: checkpoint-2 was dropped for checkpoint-4"]
    assert kept(config) == ["checkpoint-4", "checkpoint-6"]


def test_a_disk_with_no_room_for_any_checkpoint_ends_no_run(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk_at(monkeypatch, 2)
    result = main(runs.config(training=SAVING))
    assert result["steps"] == 6
    assert result["notes"] == [
        "the disk was full: checkpoint-2 could not be kept, training went on without"
    ]
