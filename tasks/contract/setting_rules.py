"""What a training's settings may say together, and what each says beyond its type. Pure.

A rule here stands for something that a library would refuse late, behind a node, weights and a
loaded model, or that it would take without doing anything.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import yaml

Section = Mapping[str, Any]

# What each schedule cannot do without (any one of these), and what else it takes.
_SCHEDULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cosine_with_restarts": ((), ("num_cycles",)),
    "polynomial": ((), ("lr_end", "power")),
    "inverse_sqrt": ((), ("timescale",)),
    "cosine_with_min_lr": (("min_lr", "min_lr_rate"), ("num_cycles",)),
    "cosine_warmup_with_min_lr": (("min_lr", "min_lr_rate"), ("num_cycles", "warmup_lr_rate")),
    "warmup_stable_decay": (
        ("num_decay_steps",),
        ("num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"),
    ),
}
_RECOMPUTATION = frozenset(("use_reentrant", "preserve_rng_state", "determinism_check", "debug"))
_PATTERNS = ("rank_pattern", "alpha_pattern")


def problems_of(values: Mapping[str, Section], *, method: str) -> Iterator[str]:
    """Everything that cannot work, each with its section, name and fix.

    values: what the user gave, by section and name, in their types.
    """
    yield from _lora_problems(values["LoraConfig"], method)
    training = values["TrainingArguments"]
    yield from _schedule_problems(training)
    yield from _evaluation_problems(training, values["DatasetConfig"])
    for name in sorted(set(training.get("gradient_checkpointing_kwargs", {})) - _RECOMPUTATION):
        yield (
            f"TrainingArguments.gradient_checkpointing_kwargs has {name!r}; known are "
            f"{', '.join(sorted(_RECOMPUTATION))}"
        )
    if training.get("max_steps") == 0:
        yield "TrainingArguments.max_steps is 0; leave it out, or name the steps"
    if training.get("metric_for_best_model") and not training.get("load_best_model_at_end"):
        yield (
            "TrainingArguments.metric_for_best_model is set, and no best model is looked for; "
            "set load_best_model_at_end: true"
        )


def notes_of(values: Mapping[str, Section]) -> Iterator[str]:
    """Settings that others keep from having an effect."""
    training = values["TrainingArguments"]
    rhythms = (("eval_steps", "eval_strategy"), ("save_steps", "save_strategy"))
    for name, strategy in rhythms:
        if name in training and training.get(strategy, "no") != "steps":
            yield f"TrainingArguments.{name} is not used: it needs {strategy}: steps"
    if "eval_delay" in training and training.get("eval_strategy", "no") == "no":
        yield "TrainingArguments.eval_delay is not used: it needs eval_strategy"


def elsewhere(name: str) -> str | None:
    """What a word of Axolotl's, Unsloth's or LLaMA-Factory's is called here, if it is one."""
    return _peers().get(name)


@functools.cache
def _peers() -> dict[str, str]:
    text = files(__package__).joinpath("peers.yaml").read_text(encoding="utf-8")
    words: dict[str, str] = yaml.safe_load(text)
    return words


def _lora_problems(lora: Section, method: str) -> Iterator[str]:
    for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        yield from _name_problems(name, lora.get(name))
    for name in _PATTERNS:
        yield from _pattern_problems(name, lora.get(name, {}))
    layers = lora.get("layers_to_transform")
    numbers = layers if isinstance(layers, list) else [layers] if layers is not None else []
    if any(not isinstance(each, int) or isinstance(each, bool) or each < 0 for each in numbers):
        yield f"LoraConfig.layers_to_transform is {layers!r}, it must hold whole numbers from 0 on"
    if lora.get("layers_pattern") and layers is None:
        yield "LoraConfig.layers_pattern says where layers_to_transform are; set that too"
    if layers is not None and isinstance(lora.get("target_modules"), str):
        yield "LoraConfig.layers_to_transform needs target_modules as a list, not as a pattern"
    if method == "qlora" and lora.get("init_lora_weights") == "orthogonal":
        yield "LoraConfig.init_lora_weights orthogonal needs full weights; use method lora"


def _name_problems(name: str, value: Any) -> Iterator[str]:
    if value in ([], ""):
        yield f"LoraConfig.{name} is empty; leave it out, or name modules"
    elif isinstance(value, list) and not all(isinstance(each, str) and each for each in value):
        yield f"LoraConfig.{name} is {value!r}, it must be a list of names"
    elif isinstance(value, str):
        yield from _regex_problems(f"LoraConfig.{name}", value)


def _pattern_problems(name: str, patterns: Section) -> Iterator[str]:
    for pattern, number in patterns.items():
        yield from _regex_problems(f"LoraConfig.{name}", str(pattern))
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            yield (
                f"LoraConfig.{name} gives {pattern!r} {number!r}, it must be a whole number at "
                "least 1"
            )


def _regex_problems(label: str, pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"{label} has {pattern!r}, which is no regular expression ({error})"


def _schedule_problems(training: Section) -> Iterator[str]:
    schedule = training.get("lr_scheduler_type", "cosine")
    given = set(training.get("lr_scheduler_kwargs", {}))
    needed, optional = _SCHEDULES.get(schedule, ((), ()))
    label = "TrainingArguments.lr_scheduler_kwargs"
    if needed and not given & set(needed):
        yield f"{label} must hold {' or '.join(needed)} for lr_scheduler_type {schedule}"
    if {"min_lr", "min_lr_rate"} <= given:
        yield f"{label} has both min_lr and min_lr_rate; keep one"
    takes = ", ".join((*needed, *optional)) or "none"
    for name in sorted(given - {*needed, *optional}, key=str):
        yield f"{label} has {name!r}; lr_scheduler_type {schedule} takes {takes}"
    for name, value in training.get("lr_scheduler_kwargs", {}).items():
        is_word = str(name).endswith("_type")
        if name in (*needed, *optional) and isinstance(value, str) != is_word:
            yield f"{label}.{name} is {value!r}, it must be {'a word' if is_word else 'a number'}"


def _evaluation_problems(training: Section, dataset: Section) -> Iterator[str]:
    evaluates = training.get("eval_strategy", "no")
    saves = training.get("save_strategy", "no")
    if evaluates != "no" and dataset.get("train_test_split") == 1:
        yield (
            f"TrainingArguments.eval_strategy is {evaluates}, and DatasetConfig.train_test_split 1 "
            "holds no rows out; lower the split, or set eval_strategy to no"
        )
    best = training.get("load_best_model_at_end")
    if (best or saves == "best") and evaluates == "no":
        name = "load_best_model_at_end" if best else "save_strategy best"
        yield f"TrainingArguments.{name} needs evaluations; set eval_strategy to steps or epoch"
    elif best and saves not in (evaluates, "best"):
        yield (
            f"TrainingArguments.load_best_model_at_end needs one rhythm: save_strategy is {saves}, "
            f"eval_strategy {evaluates}; set both alike"
        )
    elif best and saves == "steps":
        yield from _rhythm_problems(training)


def _rhythm_problems(training: Section) -> Iterator[str]:
    saved, evaluated = training.get("save_steps"), training.get("eval_steps")
    if saved is None or evaluated is None:
        yield "TrainingArguments.load_best_model_at_end needs save_steps and eval_steps; set both"
    elif saved % evaluated:
        yield (
            f"TrainingArguments.save_steps is {saved:g}, with load_best_model_at_end it must be a "
            f"multiple of eval_steps ({evaluated:g})"
        )
