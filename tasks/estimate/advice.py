"""What a training's settings are advised to be, for a model and a dataset. Pure.

Rules that others have published and measured; each is told only where a setting is far from it.
"""

from dataclasses import dataclass
from math import ceil

from tasks.contract.shapes import ModelShape
from tasks.contract.training_config import TrainingConfig
from tasks.estimate.memory import lora_parameters
from tasks.estimate.steps import STEPS_WANTED, rows_per_step

# The rate that LoRA learns best at, by the model's width: 10 times the best of full tuning, which
# falls with the width by a power that was fitted to each family ("LoRA Without Regret", Schulman et
# al. 2025, and `hyperparam_utils.get_lr` of its authors' tinker-cookbook).
_RATE, _WIDTH = 5e-4, 2000
_FALLS_BY = {"llama": 0.781, "qwen": 0.0775}
# Losses change little with the rate near its best: the same article's curves are flat within this.
_FAR_TIMES = 3
# The largest rank that is advised; the article tries 512.
_MOST_RANK = 256
# Steps of more rows cost LoRA more than full tuning, whatever its rank (the same article).
_ROWS_TOLERATED = 32
_MOST_EPOCHS = 10


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to set, and why."""

    setting: str
    why: str

    def __str__(self) -> str:
        """Both, as a line tells them."""
        return f"{self.why}: {self.setting} advised"


def advised_rate(
    config: TrainingConfig, *, shape: ModelShape | None, architecture: str
) -> Advice | None:
    """Another learning rate, where the one asked for is far from what such a model learns best at.

    architecture: `model_type`. Of families that the rule was not fitted to, any rate between those
    of the two that it was fitted to will do. Narrower models than 2000 count as that wide.
    """
    if shape is None:
        return None
    powers = [power for name, power in _FALLS_BY.items() if architecture.startswith(name)]
    width = max(shape.hidden, _WIDTH)
    rates = [_RATE * (_WIDTH / width) ** power for power in powers or _FALLS_BY.values()]
    asked = float(config.training["learning_rate"])
    if asked < min(rates) / _FAR_TIMES:
        advised, why = min(rates), "is low for LoRA, which learns best at ten times full tuning's"
    elif asked > max(rates) * _FAR_TIMES:
        advised, why = max(rates), "is high for a model of this width, and may diverge"
    else:
        return None
    setting = f"TrainingArguments.learning_rate {advised:.1g}"
    return Advice(setting=setting, why=f"learning rate {asked:g} {why}")


def advised_rank(
    config: TrainingConfig, *, shape: ModelShape | None, answer_tokens: int
) -> Advice | None:
    """A larger rank, where an adapter has fewer parameters than there are tokens to be learned.

    As long as it has as many, LoRA learns what full tuning does (the LoRA primer of Tinker's
    documentation); a rank larger than that neither helps nor harms.
    """
    if shape is None:
        return None
    modules = config.lora.get("target_modules")
    of_a_rank = lora_parameters(
        shape, rank=1, target_modules=tuple(modules) if isinstance(modules, list) else None
    )
    holds = config.lora_rank * of_a_rank
    rank = min(_MOST_RANK, 1 << (ceil(answer_tokens / of_a_rank) - 1).bit_length())
    if holds >= answer_tokens or rank <= config.lora_rank:
        return None
    return Advice(
        setting=f"LoraConfig.r {rank}",
        why=f"rank {config.lora_rank} holds about {_count(holds)} of {_count(answer_tokens)} "
        "answer tokens",
    )


def advised_steps(config: TrainingConfig, *, rows: int) -> Advice | None:
    """More or smaller steps, where there are too few to learn anything or too many rows in one."""
    epochs = float(config.training["num_train_epochs"])
    passes = config.training.get("gradient_accumulation_steps")
    if config.training.get("max_steps", -1) > 0 or (passes and config.rows_per_pass is None):
        return None
    chosen = rows_per_step(rows, epochs=epochs)
    asked = config.rows_per_pass * (passes or 1) if config.rows_per_pass else chosen
    if asked > _ROWS_TOLERATED:
        return Advice(
            setting=f"per_device_train_batch_size x gradient_accumulation_steps {_ROWS_TOLERATED}",
            why=f"{asked} rows a step are many for LoRA, which learns less from large steps",
        )
    steps = ceil(rows / asked * epochs)
    if steps >= STEPS_WANTED or epochs >= _MOST_EPOCHS:
        return None
    why = f"{steps} steps are few, and move little"
    if asked > chosen:
        return Advice(setting=f"a per_device_train_batch_size of {chosen}", why=why)
    enough = min(_MOST_EPOCHS, ceil(STEPS_WANTED / rows))
    return Advice(setting=f"TrainingArguments.num_train_epochs {enough}", why=why)


def _count(number: float) -> str:
    """A number as a person would say it: 980, 12k, 4.1M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
