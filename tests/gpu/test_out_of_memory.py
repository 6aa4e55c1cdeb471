"""A pass that does not fit the GPU after all is taken in smaller ones, and the run goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.tuning.pod.train import main
from tasks.tuning.pod.trainer import AnswerTrainer
from tests.tuning.runs import Runs, losses
from tests.tuning.tiny import chats, write_rows, write_tiny_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*removed in v6:FutureWarning")


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    weights = write_tiny_weights(tmp_path / "model")
    rows = write_rows(tmp_path / "train.jsonl", chats(24))
    return Runs(tmp_path, weights_dir=weights, train_file=rows)


class FullGpu:
    """Has room for so many rows a pass, and counts the passes that had none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rows: int) -> None:
        self.refused: list[int] = []
        compute_loss = AnswerTrainer.compute_loss

        def loss(trainer: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            asked = len(inputs["input_ids"])
            if asked > rows and not trainer.plan.gradient_checkpointing:
                self.refused.append(asked)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return compute_loss(trainer, model, inputs, *rest, **named)

        monkeypatch.setattr(AnswerTrainer, "compute_loss", loss)


def test_the_rows_of_a_pass_are_halved_until_they_fit_and_the_losses_stay(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"per_device_train_batch_size": 8, "max_steps": 2}
    whole = runs.config("whole", training=asked)
    main(whole)
    gpu = FullGpu(monkeypatch, rows=2)
    halved = runs.config("halved", training=asked)
    assert main(halved)["steps"] == 2
    assert gpu.refused == [8, 4]
    assert losses(halved) == pytest.approx(losses(whole), abs=1e-3)
    assert "going on with smaller passes: rows_per_pass=2 instead of 4" in caplog.text


def test_activations_are_recomputed_where_one_row_does_not_fit(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FullGpu(monkeypatch, rows=0)
    asked = {"per_device_train_batch_size": 2, "max_steps": 1}
    assert main(runs.config(training=asked))["steps"] == 1
    assert gpu.refused == [2, 1]


def test_a_run_for_which_nothing_is_small_enough_ends_out_of_memory(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullGpu(monkeypatch, rows=0)
    asked = {"per_device_train_batch_size": 1, "gradient_checkpointing": False}
    with pytest.raises(torch.OutOfMemoryError):
        main(runs.config(training=asked))
