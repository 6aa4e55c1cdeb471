"""A training_config.yaml in KAITO's form becomes a typed TrainingConfig, or every reason why not.

Pure: standard library and PyYAML, no torch. The control side runs the same check before any node
is asked for. What each section may hold is data: `accepted.yaml`. Defaults are data as well:
`templates/`; a value of the user's goes before them, they go before TRL's.
"""

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from math import isfinite
from pathlib import PurePosixPath
from typing import Any, Literal

import yaml

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.setting_rules import elsewhere, notes_of, problems_of
from tasks.contract.shapes import TuningShape
from tasks.contract.strict_yaml import load_document, problem_in

ROOT = "training_config"
OUTPUT_ROOT = "/mnt"
# Tokens of one forward pass where the user names no batch size. On a CPU more only costs memory:
# speed grows by 5 % from 512 to 2048 tokens and no further (SmolLM2, 2 cores).
TOKENS_PER_PASS = 2048
TOKENS_PER_PASS_ON_GPU = 4 * TOKENS_PER_PASS

Method = Literal["lora", "qlora"]
Section = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How the base model is loaded; chat_template: Jinja text or a file's path."""

    torch_dtype: str = "auto"
    chat_template: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """How rows are read and divided.

    train_test_split: share of the questions that is trained on, about; None = nine in ten of ten
        rows and more, 49 in 50 of 5,000 and more. Which, follows from shuffle_seed.
    """

    shuffle_dataset: bool = True
    shuffle_seed: int = 42
    train_test_split: float | None = None
    context_column: str | None = None
    response_column: str | None = None
    messages_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One checked configuration, defaults filled in.

    quantization: arguments of BitsAndBytesConfig; empty without quantisation.
    lora: arguments of peft.LoraConfig.
    training: arguments of trl.SFTConfig, without output_dir.
    given, given_lora: names of `training` and of `lora` that the user wrote.
    notes: what was accepted and is not used, and why.
    """

    method: Method
    model: ModelSettings = ModelSettings()
    quantization: Section = field(default_factory=dict)
    lora: Section = field(default_factory=dict)
    training: Section = field(default_factory=dict)
    dataset: DatasetSettings = DatasetSettings()
    given: frozenset[str] = frozenset()
    given_lora: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def is_quantized(self) -> bool:
        """Whether the base model's weights are kept in 4 or 8 bits."""
        return bool(self.quantization)

    @property
    def lora_rank(self) -> int:
        """The adapter's rank."""
        return int(self.lora["r"])

    @property
    def max_length(self) -> int:
        """Tokens after which a row is cut."""
        return int(self.training["max_length"])

    @property
    def gradient_checkpointing(self) -> bool | None:
        """Recompute activations instead of keeping them; None = where they would not fit."""
        value: bool | None = self.training.get("gradient_checkpointing")
        return value

    @property
    def keeps_best(self) -> bool:
        """Whether the adapter is the best one that was evaluated: where any was, unless told not.

        Who says when it is saved says also whether the best is looked for.
        """
        evaluates = self.training.get("eval_strategy", "no") != "no"
        by_itself = evaluates and "save_strategy" not in self.given
        return bool(self.training.get("load_best_model_at_end", by_itself))

    @property
    def rows_per_pass(self) -> int | None:
        """Rows of one forward and backward pass, where the user names them."""
        rows: int | None = self.training.get("per_device_train_batch_size")
        return rows

    def tuning_shape(
        self,
        *,
        on_gpu: bool = False,
        rows: int | None = None,
        row_tokens: int | None = None,
        compute_bytes: Literal[2, 4] | None = None,
    ) -> TuningShape:
        """What memory follows from.

        rows, row_tokens: of one pass; None = as many as are wanted, as long as may be.
        compute_bytes: of a number in products; None = of hardware that computes in 16 bit.
        """
        row_tokens = row_tokens or self.max_length
        tokens = TOKENS_PER_PASS_ON_GPU if on_gpu else TOKENS_PER_PASS
        compute_bytes = compute_bytes or (4 if self.model.torch_dtype == "float32" else 2)
        modules = self.lora.get("target_modules")
        return TuningShape(
            weight_bits=self._weight_bits(compute_bytes),
            compute_bytes=compute_bytes,
            lora_rank=self.lora_rank,
            target_modules=tuple(modules) if isinstance(modules, list) else None,
            optimizer=str(self.training.get("optim", "adamw_torch")),
            rows=rows or self.rows_per_pass or max(1, tokens // row_tokens),
            row_tokens=row_tokens,
            gradient_checkpointing=self.gradient_checkpointing is True,
            on_gpu=on_gpu,
        )

    def recomputing(self) -> "TrainingConfig":
        """The same, with activations recomputed instead of kept."""
        return replace(self, training=self.training | {"gradient_checkpointing": True})

    def least_shape(self, *, on_gpu: bool = False) -> TuningShape:
        """The smallest batch that the trainer would take, with activations recomputed if it may."""
        return replace(
            self.tuning_shape(on_gpu=on_gpu),
            rows=self.rows_per_pass or 1,
            gradient_checkpointing=self.gradient_checkpointing is not False,
        )

    def _weight_bits(self, compute_bytes: Literal[2, 4]) -> Literal[4, 8, 16, 32]:
        if self.is_quantized:
            return 8 if self.quantization.get("load_in_8bit") else 4
        return 32 if compute_bytes == 4 else 16

    @property
    def summary(self) -> str:
        """The settings in one line."""
        bits = "8-bit" if self.quantization.get("load_in_8bit") else "4-bit"
        weights = f"{bits} weights" if self.is_quantized else "full weights"
        rate, epochs = self.training["learning_rate"], self.training["num_train_epochs"]
        return (
            f"{self.method}, {weights}, rank {self.lora_rank}, learning rate {rate:g}, "
            f"{epochs:g} epoch(s), max_length {self.max_length}"
        )


def parse_training_config(text: str | None, *, method: str) -> TrainingConfig:
    """The configuration that a training_config.yaml stands for; None or empty = the defaults.

    method: lora or qlora, in any case.
    Raises: InvalidTuningConfig: all problems in one message, each by section and name.
    """
    kind = _method(method)
    defaults = _defaults(kind)
    given = _read(text)
    problems = [
        *given.problems,
        *_bits_problems(given.values["QuantizationConfig"], kind),
        *_output_dir_problems(given.values["TrainingArguments"]),
        *problems_of(given.values, method=kind),
    ]
    if problems:
        raise InvalidTuningConfig(
            f"training_config.yaml was to configure a {kind} run",
            "; ".join(problems),
            "correct these settings",
        )
    return _assembled(kind, defaults, given)


@dataclass
class _Reading:
    """What a text says: usable values by section and name, problems, and notes on the rest."""

    values: dict[str, Section]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _assembled(method: Method, defaults: dict[str, Section], given: _Reading) -> TrainingConfig:
    merged = {name: defaults[name] | given.values[name] for name in _accepted()}
    training = {k: v for k, v in merged["TrainingArguments"].items() if k != "output_dir"}
    return TrainingConfig(
        method=method,
        model=ModelSettings(**merged["ModelConfig"]),
        quantization=_quantization(
            merged["QuantizationConfig"], given.values["QuantizationConfig"]
        ),
        lora=merged["LoraConfig"],
        training=training,
        dataset=DatasetSettings(**merged["DatasetConfig"]),
        given=frozenset(given.values["TrainingArguments"]),
        given_lora=frozenset(given.values["LoraConfig"]),
        notes=(*given.notes, *notes_of(given.values)),
    )


def _quantization(merged: Section, given: Section) -> Section:
    """BitsAndBytesConfig's arguments; 8 bits asked for takes the place of the default's 4."""
    if given.get("load_in_8bit"):
        return {name: value for name, value in merged.items() if "4bit" not in name}
    return merged if merged.get("load_in_4bit") else {}


def _method(method: str) -> Method:
    lowered = method.lower()
    if lowered == "lora":
        return "lora"
    if lowered == "qlora":
        return "qlora"
    raise InvalidTuningConfig(
        f"method {method!r} was asked for", "there are lora and qlora", "use one of them"
    )


@functools.cache
def _defaults(method: Method) -> dict[str, Section]:
    """The template's values; a worker asks for them several times a run."""
    template = files(__package__).joinpath(f"templates/{method}.yaml")
    return _read(template.read_text(encoding="utf-8")).values


@functools.cache
def _accepted() -> dict[str, dict[str, Section]]:
    text = files(__package__).joinpath("accepted.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Section]] = yaml.safe_load(text)
    return loaded


def section_of(name: str) -> str | None:
    """The section of training_config.yaml that a setting belongs to; None = there is none."""
    for section, rules in _accepted().items():
        if name in rules["accepted"] or name in rules.get("renamed", {}):
            return section
    return None


def _read(text: str | None) -> _Reading:
    reading = _Reading(values={name: {} for name in _accepted()})
    for name, section in _root(text).items():
        if name not in _accepted():
            near = _called_here(str(name)) or _nearest(str(name), list(_accepted()))
            reading.problems.append(f"unknown section {name!r}{near}")
        elif isinstance(section, Mapping):
            _read_section(name, section, reading)
        elif section is not None:
            reading.problems.append(f"section {name} is {section!r}, it must be a mapping")
    return reading


def _root(text: str | None) -> Mapping[str, Any]:
    if not (text or "").strip():
        return {}
    try:
        loaded = load_document(text or "")
    except yaml.YAMLError as error:
        raise InvalidTuningConfig(
            "training_config.yaml was to be read as YAML",
            f"found {problem_in(error)}",
            "correct the text of the ConfigMap",
        ) from None
    root = loaded.get(ROOT) if isinstance(loaded, Mapping) else None
    if not isinstance(root, Mapping):
        raise InvalidTuningConfig(
            "training_config.yaml was to configure the run",
            f"it has no mapping {ROOT!r} at its top",
            f"put the sections {', '.join(_accepted())} under it",
        )
    return root


def _read_section(section: str, entries: Mapping[Any, Any], reading: _Reading) -> None:
    for key, value in entries.items():
        if value is not None:
            _read_entry(section, str(key), value=value, reading=reading)


def _read_entry(section: str, key: str, *, value: Any, reading: _Reading) -> None:
    rules = _accepted()[section]
    name = rules.get("renamed", {}).get(key, key)
    label = f"{section}.{key}"
    if why := rules.get("refused values", {}).get(name, {}).get(value if _is_word(value) else ""):
        reading.problems.append(f"{label} {value} cannot be used: {why}")
    elif name in rules["accepted"]:
        try:
            rule = rules.get("units", {}).get(key, rules["accepted"][name])
            reading.values[section][name] = _converted(value, rule)
        except ValueError as error:
            reading.problems.append(f"{label} is {value!r}, it must be {error}")
    elif name in rules.get("refused", {}):
        if value and value != "false":
            reason = rules["refused"][name]
            reading.problems.append(f"{label} cannot be used: {reason}; remove it")
    elif name in rules["settled"]:
        if value is not False:
            reading.notes.append(f"{label} is not used: {rules['settled'][name]}")
    else:
        reading.problems.append(f"unknown name {label}{_where(section, key)}")


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _where(section: str, key: str) -> str:
    """A hint: the section that does know the name, else the nearest name of this one."""
    if hint := _called_here(key):
        return hint
    for other, rules in _accepted().items():
        if other != section and key in rules["accepted"]:
            return f" (it belongs to {other})"
    known = [name for group in _accepted()[section].values() for name in group]
    return _nearest(key, known)


def _called_here(name: str) -> str:
    ours = elsewhere(name)
    return f" (here it is {ours})" if ours else ""


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known[:12])})"


def _converted(value: Any, rule: Any) -> Any:
    """The value in the rule's type.

    Raises: ValueError: what the value must be, to be read after "it must be".
    """
    if isinstance(rule, list):
        return _chosen(value, rule)
    bounds = rule if isinstance(rule, dict) else {"type": rule}
    for kind in bounds["type"].split(" | "):
        converted = _as_type(value, kind)
        if converted is not None and _within(converted, bounds):
            return converted
    raise ValueError(_described(bounds))


def _chosen(value: Any, words: list[Any]) -> Any:
    # YAML 1.1 reads a bare `no` as false.
    word = "no" if value is False and "no" in words else value
    if word not in words:
        near = difflib.get_close_matches(str(word), [str(each) for each in words], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"one of {', '.join(str(each) for each in words)}{hint}")
    return word


_PLAIN: dict[str, type] = {"str": str, "list": list, "dict": dict}


def _as_type(value: Any, kind: str) -> Any:
    """The value as that type; None if it is none.

    Text that spells a number is one: YAML 1.1 reads 2e-5 as text.
    """
    if kind == "bool":
        return {"true": True, "false": False}.get(str(value).lower())
    if kind in {"int", "float"}:
        return _as_number(value, kind)
    return value if isinstance(value, _PLAIN[kind]) else None


def _as_number(value: Any, kind: str) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not isfinite(number):
        return None
    if kind == "float":
        return number
    return int(number) if number.is_integer() else None


def _within(value: Any, bounds: Section) -> bool:
    return (
        ("from" not in bounds or value >= bounds["from"])
        and ("above" not in bounds or value > bounds["above"])
        and ("to" not in bounds or value <= bounds["to"])
        and ("below" not in bounds or value < bounds["below"])
    )


_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
}
_BOUNDS = {"from": "at least", "above": "more than", "to": "at most", "below": "less than"}


def _described(bounds: Section) -> str:
    kinds = " or ".join(_KINDS[kind] for kind in bounds["type"].split(" | "))
    limits = [f"{words} {bounds[key]}" for key, words in _BOUNDS.items() if key in bounds]
    return " ".join([kinds, " and ".join(limits)]).strip()


def _bits_problems(quantization: Section, method: Method) -> Iterator[str]:
    asked = [name for name in ("load_in_4bit", "load_in_8bit") if quantization.get(name)]
    if method == "lora" and asked:
        yield (
            f"QuantizationConfig.{asked[0]} is true with method lora, which keeps full weights; "
            "remove it or use method qlora"
        )
    if method == "qlora" and len(asked) > 1:
        yield "QuantizationConfig.load_in_4bit and load_in_8bit are both true; keep one"
    if method == "qlora" and not asked and "load_in_4bit" in quantization:
        yield (
            "QuantizationConfig.load_in_4bit is false with method qlora, which needs quantised "
            "weights; set load_in_4bit or load_in_8bit to true, or use method lora"
        )


def _output_dir_problems(training: Section) -> Iterator[str]:
    output_dir = PurePosixPath(training.get("output_dir", OUTPUT_ROOT))
    if not output_dir.is_relative_to(OUTPUT_ROOT) or ".." in output_dir.parts:
        yield (
            f"TrainingArguments.output_dir is '{output_dir}', it must lie under {OUTPUT_ROOT}; "
            "remove it: results go where tuning.output says"
        )
