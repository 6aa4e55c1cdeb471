"""Whether a run fits is known before anything large is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import ModelDoesNotFit, WeightsUnavailable
from tasks.presets import ModelShape
from tasks.tuning.pod.memory import available_memory_gib, read_shape, settle_checkpointing
from tasks.tuning.pod.training_config import TrainingConfig, parse_training_config
from tests.tuning.tiny import tiny_llama

SEVEN_B = ModelShape(
    parameters=7_000_000_000, layers=32, hidden=4096, intermediate=11008, vocabulary=32000
)


def settle(available_gib: float, *, method: str = "qlora", asked: bool | None = None) -> bool:
    config = parse_training_config(None, method=method)
    if asked is not None:
        config = with_checkpointing(config, asked=asked)
    return settle_checkpointing(SEVEN_B, config, tokens_per_pass=8192, available_gib=available_gib)


def with_checkpointing(config: TrainingConfig, *, asked: bool) -> TrainingConfig:
    return replace(config, training=config.training | {"gradient_checkpointing": asked})


def test_the_shape_is_read_without_loading_the_weights(tiny_weights: Path) -> None:
    shape = read_shape(tiny_weights)
    parameters = sum(parameter.numel() for parameter in tiny_llama().parameters())
    assert shape == ModelShape(
        parameters=parameters, layers=2, hidden=64, intermediate=128, vocabulary=269
    )


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="fetch the weights again"):
        read_shape(tmp_path)


def test_activations_are_kept_where_they_fit_and_recomputed_where_they_do_not() -> None:
    assert settle(140) is False
    assert settle(12) is True


def test_what_the_user_asks_for_is_done() -> None:
    assert settle(140, asked=True) is True
    with pytest.raises(ModelDoesNotFit, match="let gradient_checkpointing be"):
        settle(12, asked=False)


def test_a_model_that_cannot_fit_is_refused_with_the_numbers_and_a_way_out() -> None:
    with pytest.raises(ModelDoesNotFit) as raised:
        settle(4, method="lora")
    assert "tuning 7.00B parameters with full weights and 8192 tokens a pass" in str(raised.value)
    assert "4.0 GiB are available; use method qlora" in str(raised.value)


def test_this_machine_has_memory() -> None:
    assert 0 < available_memory_gib(use_gpu=False) < 100_000
