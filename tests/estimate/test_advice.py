"""Settings far from what suits a model and a dataset are told with others, near ones are not."""

import pytest

from tasks.contract.shapes import ModelShape
from tasks.contract.training_config import TrainingConfig, parse_training_config
from tasks.estimate.advice import advised_rank, advised_rate, advised_steps

# As of Llama 3.1 8B: 41.9M parameters of an adapter on all linear layers at rank 16.
LLAMA_8B = ModelShape(
    parameters=8_030_000_000,
    layers=32,
    hidden=4096,
    intermediate=14336,
    vocabulary=128256,
    kv_hidden=1024,
)
SMALL = LLAMA_8B.model_copy(update={"hidden": 576})


def config(**sections: dict[str, object]) -> TrainingConfig:
    return parse_training_config(str({"training_config": sections}), method="lora")


def training(**values: object) -> TrainingConfig:
    return config(TrainingArguments=values)


@pytest.mark.parametrize(
    ("tokens", "rank", "advised"),
    [
        (20_000_000, 8, None),
        (40_000_000, 8, "rank 8 holds about 21M of 40M answer tokens: LoraConfig.r 16 advised"),
        (80_000_000, 8, "rank 8 holds about 21M of 80M answer tokens: LoraConfig.r 32 advised"),
        (80_000_000, 32, None),
        (10**10, 8, "rank 8 holds about 21M of 10B answer tokens: LoraConfig.r 256 advised"),
        (10**10, 256, None),
        (0, 1, None),
    ],
)
def test_a_rank_that_holds_fewer_parameters_than_answer_tokens_is_too_small(
    tokens: int, rank: int, advised: str | None
) -> None:
    told = advised_rank(config(LoraConfig={"r": rank}), shape=LLAMA_8B, answer_tokens=tokens)
    assert (str(told) if told else None) == advised


def test_an_adapter_on_fewer_layers_needs_a_larger_rank() -> None:
    narrow = config(LoraConfig={"r": 8, "target_modules": ["q_proj", "v_proj"]})
    told = advised_rank(narrow, shape=LLAMA_8B, answer_tokens=20_000_000)
    assert told
    assert told.setting == "LoraConfig.r 64"


@pytest.mark.parametrize(
    ("rate", "shape", "architecture", "setting"),
    [
        # What full tuning takes; transformers' own default; ours.
        (2e-5, LLAMA_8B, "llama", "TrainingArguments.learning_rate 0.0003"),
        (5e-5, LLAMA_8B, "llama", "TrainingArguments.learning_rate 0.0003"),
        (2e-4, LLAMA_8B, "llama", None),
        (2e-4, LLAMA_8B, "qwen3", None),
        (2e-4, SMALL, "llama", None),
        (4e-4, SMALL, "llama", None),
        (5e-5, LLAMA_8B, "qwen2", "TrainingArguments.learning_rate 0.0005"),
        (1e-3, LLAMA_8B, "llama", "TrainingArguments.learning_rate 0.0003"),
        (1e-3, LLAMA_8B, "qwen2", None),
        # A family that nobody has fitted the rule to: only what is far from both.
        (1e-4, LLAMA_8B, "gemma2", None),
        (1e-3, LLAMA_8B, "gemma2", None),
        (2e-5, LLAMA_8B, "gemma2", "TrainingArguments.learning_rate 0.0003"),
        (2e-3, LLAMA_8B, "gemma2", "TrainingArguments.learning_rate 0.0005"),
    ],
)
def test_a_rate_far_from_ten_times_full_tuning_s_is_told(
    rate: float, shape: ModelShape, architecture: str, setting: str | None
) -> None:
    told = advised_rate(training(learning_rate=rate), shape=shape, architecture=architecture)
    assert (told.setting if told else None) == setting


@pytest.mark.parametrize(
    ("rows", "settings", "advised"),
    [
        (64, {}, None),
        (100_000, {}, None),
        (
            20,
            {},
            "20 steps are few, and move little: TrainingArguments.num_train_epochs 4 advised",
        ),
        (2, {}, "2 steps are few, and move little: TrainingArguments.num_train_epochs 10 advised"),
        (2, {"num_train_epochs": 10}, None),
        (20, {"num_train_epochs": 4}, None),
        (20, {"max_steps": 5}, None),
        (
            320,
            {"per_device_train_batch_size": 8},
            "40 steps are few, and move little: a per_device_train_batch_size of 4 advised",
        ),
        (320, {"gradient_accumulation_steps": 8}, None),
        (320, {"per_device_train_batch_size": 1}, None),
        (
            100_000,
            {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 8},
            (
                "128 rows a step are many for LoRA, which learns less from large steps: "
                "per_device_train_batch_size x gradient_accumulation_steps 32 advised"
            ),
        ),
    ],
)
def test_too_few_steps_and_too_large_ones_are_told(
    rows: int, settings: dict[str, object], advised: str | None
) -> None:
    told = advised_steps(training(**settings), rows=rows)
    assert (str(told) if told else None) == advised


def test_of_a_model_of_unknown_size_nothing_is_advised() -> None:
    asked = training(learning_rate=1e-6)
    assert advised_rate(asked, shape=None, architecture="") is None
    assert advised_rank(asked, shape=None, answer_tokens=10**9) is None
