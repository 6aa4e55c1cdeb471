"""A tuning run's memory follows from its settings, and is what real runs were measured at."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tasks.contract.shapes import ModelShape, TuningShape
from tasks.estimate import (
    GPU_SPARE,
    batch_that_fits,
    lora_parameters,
    tuning_memory,
    tuning_memory_gib,
)
from tasks.presets import find_preset
from tests.estimate.measured import MEASURED, Run, estimated_gib, measure

BOUND = 0.15
# LLaMA and LLaMA 2, as published: no grouped keys but in the largest, heads not tied.
LLAMA_7B = ModelShape(
    parameters=6_738_415_616, layers=32, hidden=4096, intermediate=11008, vocabulary=32000
)
LLAMA_13B = ModelShape(
    parameters=13_015_864_320, layers=40, hidden=5120, intermediate=13824, vocabulary=32000
)
LLAMA_33B = ModelShape(
    parameters=32_528_943_616, layers=60, hidden=6656, intermediate=17920, vocabulary=32000
)
LLAMA_65B = ModelShape(
    parameters=65_285_660_672, layers=80, hidden=8192, intermediate=22016, vocabulary=32000
)
LLAMA_70B = ModelShape(
    parameters=68_976_648_192,
    layers=80,
    hidden=8192,
    intermediate=28672,
    vocabulary=32000,
    kv_hidden=1024,
)
ON_GPU = TuningShape(weight_bits=4, row_tokens=512, gradient_checkpointing=True, on_gpu=True)


def smollm2() -> ModelShape:
    shape = find_preset("smollm2-135m-instruct").shape
    assert shape is not None
    return shape


@pytest.mark.parametrize("run", MEASURED, ids=lambda run: run.name)
def test_the_estimate_is_near_the_peak_of_a_real_run(run: Run) -> None:
    assert estimated_gib(run) == pytest.approx(run.peak_gib, rel=BOUND)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "run",
    # `auto` is another number format on a CPU without bfloat16, and another peak.
    [run for run in MEASURED if run.dtype != "auto"],
    ids=lambda run: run.name,
)
def test_a_run_of_today_has_the_peak_that_was_measured(run: Run, tmp_path: Path) -> None:
    peak_gib = measure(run, tmp_path)
    assert peak_gib == pytest.approx(run.peak_gib, rel=BOUND)
    assert peak_gib == pytest.approx(estimated_gib(run), rel=BOUND)


# 10^9 bytes. 13, 33 and 65B: Guanaco's in QLoRA (arXiv 2305.14314), table 6. 7B and 70B: the table
# of hardware in LLaMA-Factory's README, whose sizes are those of cards.
@pytest.mark.parametrize(
    ("shape", "published_gb"),
    [(LLAMA_7B, 6), (LLAMA_13B, 10), (LLAMA_33B, 21), (LLAMA_65B, 41), (LLAMA_70B, 48)],
    ids=["7B", "13B", "33B", "65B", "70B"],
)
def test_qlora_is_of_the_published_size(shape: ModelShape, published_gb: float) -> None:
    estimated_gb = tuning_memory_gib(shape, ON_GPU) * 2**30 / 1e9
    assert 0.75 * published_gb < estimated_gb < 1.05 * published_gb


def with_bits(weight_bits: Literal[4, 8, 16]) -> float:
    return tuning_memory(LLAMA_7B, replace(ON_GPU, weight_bits=weight_bits)).weights


def test_quantised_weights_take_a_quarter_or_half_of_the_memory() -> None:
    assert with_bits(4) == pytest.approx(0.29 * with_bits(16), rel=0.05)
    assert with_bits(8) == pytest.approx(0.52 * with_bits(16), rel=0.05)


def test_recomputed_activations_need_less_memory() -> None:
    kept = TuningShape(weight_bits=4, rows=4, row_tokens=512)
    recomputed = replace(kept, gradient_checkpointing=True)
    assert tuning_memory_gib(smollm2(), recomputed) < tuning_memory_gib(smollm2(), kept) / 2


def test_optimisers_of_8_bits_need_less_memory_for_the_adapter() -> None:
    adapters = [
        tuning_memory(LLAMA_7B, replace(ON_GPU, optimizer=name)).adapter
        for name in ("adamw_torch", "paged_adamw_8bit", "sgd")
    ]
    assert adapters == sorted(adapters, reverse=True)


def test_lora_parameters_are_those_that_peft_makes() -> None:
    """Counted by PEFT on SmolLM2: `print_trainable_parameters`."""
    assert lora_parameters(smollm2(), rank=8) == 2_442_240
    assert lora_parameters(smollm2(), rank=16) == 2 * 2_442_240
    assert lora_parameters(smollm2(), rank=8, target_modules=("q_proj", "v_proj")) == 460_800


def fits(available_gib: float, *, rows: int = 16, **asked: bool) -> tuple[int, bool] | None:
    """Rows and whether activations are recomputed."""
    wanted = replace(ON_GPU, rows=rows)
    found = batch_that_fits(LLAMA_7B, wanted, available_gib=available_gib, **asked)
    return (found.rows, found.gradient_checkpointing) if found else None


def test_all_rows_are_taken_where_they_fit() -> None:
    assert fits(80) == (16, False)


def test_fewer_rows_come_before_recomputing() -> None:
    found = fits(24)
    assert found
    rows, recomputes = found
    assert 1 <= rows < 16
    assert not recomputes


def test_where_one_row_does_not_fit_activations_are_recomputed() -> None:
    found = fits(6.5)
    assert found
    assert found[0] > 1
    assert found[1]


def test_nothing_fits_where_the_weights_do_not() -> None:
    assert fits(4) is None


def test_a_batch_size_of_the_users_is_kept() -> None:
    assert fits(24, fixed_rows=True) == (16, True)
    assert fits(24, fixed_rows=True, checkpointing=False) is None


def test_what_fits_is_within_what_is_available() -> None:
    for available_gib in range(5, 90):
        found = batch_that_fits(LLAMA_7B, replace(ON_GPU, rows=16), available_gib=available_gib)
        assert found is None or tuning_memory_gib(LLAMA_7B, found) <= available_gib


# Peak of one real pass of 8 x 1024 tokens by transformers and PEFT (rank 8) with recomputed
# activations, on fake tensors whose 4-bit layers keep and spread weights as bitsandbytes' do, and
# 0.6 GiB of CUDA's context. (layers, hidden, intermediate, vocabulary, width of keys, 10^9
# parameters) and GiB.
RECOMPUTED = {
    "Llama-2 7B": ((32, 4096, 11008, 32000, 4096, 6.738), 8.9),
    "Phi-3 mini": ((32, 3072, 8192, 32064, 3072, 3.821), 6.1),
    "Llama-3.1 8B": ((32, 4096, 14336, 128256, 1024, 8.030), 11.0),
    "Qwen2.5 7B": ((28, 3584, 18944, 152064, 512, 7.616), 10.7),
    "Qwen2.5 32B": ((64, 5120, 27648, 152064, 1024, 32.764), 28.8),
    "Llama-3.3 70B": ((80, 8192, 28672, 128256, 1024, 70.554), 54.2),
}


@pytest.mark.parametrize("name", RECOMPUTED)
def test_a_batch_that_is_said_to_fit_a_gpu_does(name: str) -> None:
    (layers, hidden, intermediate, vocabulary, kv_hidden, billions), peak_gib = RECOMPUTED[name]
    shape = ModelShape(
        parameters=round(billions * 1e9),
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=vocabulary,
        kv_hidden=kv_hidden,
    )
    estimated_gib = tuning_memory_gib(shape, replace(ON_GPU, rows=8, row_tokens=1024))
    assert estimated_gib == pytest.approx(peak_gib, rel=0.05)
    assert estimated_gib / (1 - GPU_SPARE) > peak_gib


def test_a_mixture_s_experts_are_held_in_16_bits_whatever_the_method() -> None:
    expert_parameters = 5_000_000_000
    mixture = LLAMA_7B.model_copy(update={"expert_parameters": expert_parameters})
    more_gib = tuning_memory_gib(mixture, ON_GPU) - tuning_memory_gib(LLAMA_7B, ON_GPU)
    assert more_gib == pytest.approx(expert_parameters * (2 - 0.516) / 2**30, rel=0.01)
