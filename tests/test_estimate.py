"""Memory and time follow from numbers, and are near what was measured elsewhere."""

import pytest

from tasks.estimate import (
    TuningShape,
    cpu_operations_per_s,
    duration,
    lora_parameters,
    tuning_memory_gib,
    tuning_seconds,
)
from tasks.presets import ModelShape, find_preset

LLAMA_7B = ModelShape(
    parameters=6_738_415_616, layers=32, hidden=4096, intermediate=11008, vocabulary=32000
)


def smollm2() -> ModelShape:
    shape = find_preset("smollm2-135m-instruct").shape
    assert shape is not None
    return shape


def test_qlora_of_a_7b_model_is_of_the_published_6_gb_class() -> None:
    tuning = TuningShape(quantized=True, tokens_per_step=512, gradient_checkpointing=True)
    assert tuning_memory_gib(LLAMA_7B, tuning) == pytest.approx(6, rel=0.25)


def test_quantised_weights_take_about_a_quarter_of_the_memory() -> None:
    full, quantized = (
        tuning_memory_gib(LLAMA_7B, TuningShape(quantized=quantized, tokens_per_step=1))
        for quantized in (False, True)
    )
    assert 7 < full - quantized < 10


def test_checkpointing_needs_less_memory() -> None:
    kept = TuningShape(quantized=True)
    recomputed = TuningShape(quantized=True, gradient_checkpointing=True)
    assert tuning_memory_gib(smollm2(), recomputed) < tuning_memory_gib(smollm2(), kept)


def test_lora_parameters_grow_with_the_rank() -> None:
    assert lora_parameters(smollm2(), rank=16) == 2 * lora_parameters(smollm2(), rank=8)


def test_training_time_is_of_the_measured_size() -> None:
    seconds = tuning_seconds(
        parameters=smollm2().parameters, tokens=16000, operations_per_s=cpu_operations_per_s(2)
    )
    assert seconds == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.0, "12 s"), (90.0, "2 min"), (7300.0, "2 h"), (300000.0, "3 days")]
)
def test_a_duration_is_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said
