"""Whether a run fits is known before anything large is loaded."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contract.errors import ModelDoesNotFit, WeightsUnavailable
from tasks.contract.shapes import ModelShape, TuningShape
from tasks.contract.training_config import parse_training_config
from tasks.tuning.pod.memory import (
    available_memory_gib,
    read_shape,
    settle_batch,
)
from tests.tuning.tiny import tiny_llama

SEVEN_B = ModelShape(
    parameters=7_000_000_000, layers=32, hidden=4096, intermediate=11008, vocabulary=32000
)
ROW_TOKENS = 1024


def settle(available_gib: float, *, method: str = "qlora", **asked: Any) -> TuningShape:
    """Eight rows a pass are wanted; `asked` are TrainingArguments of the user's."""
    text = yaml.safe_dump({"training_config": {"TrainingArguments": asked}})
    config = parse_training_config(text, method=method)
    wanted = config.tuning_shape(rows=config.rows_per_pass or 8, row_tokens=ROW_TOKENS)
    return settle_batch(SEVEN_B, config, wanted, available_gib=available_gib)


def test_the_shape_is_read_without_loading_the_weights(tiny_weights: Path) -> None:
    shape = read_shape(tiny_weights)
    parameters = sum(parameter.numel() for parameter in tiny_llama().parameters())
    assert shape == ModelShape(
        parameters=parameters,
        layers=2,
        hidden=64,
        intermediate=128,
        vocabulary=269,
        heads=4,
        kv_hidden=32,
    )


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="fetch the weights again"):
        read_shape(tmp_path)


def test_every_row_is_taken_where_there_is_room() -> None:
    found = settle(500)
    assert (found.rows, found.gradient_checkpointing) == (8, False)


def test_fewer_rows_are_taken_before_activations_are_recomputed() -> None:
    found = settle(50)
    assert 1 <= found.rows < 8
    assert not found.gradient_checkpointing


def test_activations_are_recomputed_where_not_one_row_s_can_be_kept() -> None:
    assert settle(25).gradient_checkpointing


def test_what_the_user_asks_for_is_done() -> None:
    assert settle(500, gradient_checkpointing=True).gradient_checkpointing
    assert settle(50, per_device_train_batch_size=8).rows == 8
    with pytest.raises(ModelDoesNotFit, match="let gradient_checkpointing be"):
        settle(25, gradient_checkpointing=False)


def test_a_model_that_cannot_fit_is_refused_with_the_numbers_and_a_way_out() -> None:
    with pytest.raises(ModelDoesNotFit) as raised:
        settle(4, method="lora", per_device_train_batch_size=8)
    assert "tuning 7.00B parameters with full weights and 8192 tokens a pass" in str(raised.value)
    assert "4.0 GiB are available; use method qlora" in str(raised.value)


def test_this_machine_has_memory() -> None:
    assert 0 < available_memory_gib() < 100_000
