"""Which modules of a model get an adapter, and whether those that a user names are there. Pure.

The trainer reads the names off the model that it has loaded; the plan, which has none, takes those
of the model's architecture (`tasks/presets/modules.yaml`). Both ask here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.contract.errors import InvalidTuningConfig

# PEFT (0.21) refuses them: Mamba's kernels read these weights past the layer and its adapter.
MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
_READ_BY_MAMBA = frozenset({"out_proj", "conv1d"})


@dataclass(frozen=True, kw_only=True)
class Modules:
    """A model's modules by their whole names.

    model: what it is called where it is told of. names: every module.
    linear: the linear layers of the text part's blocks, which get an adapter unless said otherwise.
    adaptable: every module that could. head: the output head; "" = none.
    text: the part that reads and writes text, and holds `linear`; of a model that sees as well, the
        rest gets no adapter. layers: blocks of it.
    """

    model: str
    model_type: str
    names: tuple[str, ...]
    linear: tuple[str, ...]
    adaptable: tuple[str, ...]
    head: str
    text: str
    layers: int

    @property
    def targets(self) -> list[str]:
        """The last names of the linear layers, sorted; PEFT matches on them."""
        last = {_last(name) for name in self.linear}
        return sorted(last - _READ_BY_MAMBA if self.model_type in MAMBA_TYPES else last)


def find_targets(modules: Modules) -> list[str]:
    """The names of every linear layer inside the blocks.

    Raises: InvalidTuningConfig: there is none.
    """
    if not modules.targets:
        raise InvalidTuningConfig(
            f"adapters were to go on the linear layers of {modules.model}",
            "it has none in its blocks",
            "set LoraConfig.target_modules",
        )
    return modules.targets


def check_targets(modules: Modules, asked: str | Sequence[str]) -> str | list[str]:
    """The names that the user gave, as PEFT wants them: a pattern as it is, a list sorted.

    Raises: InvalidTuningConfig: a name that matches no layer, or the output head.
    """
    if asked == "all-linear":
        return find_targets(modules)
    if isinstance(asked, str):
        return _check_pattern(modules, asked)
    missing = [
        name for name in asked if not any(_is_named(each, name) for each in modules.adaptable)
    ]
    if missing:
        raise _no_such_layer(modules, missing)
    _expect_no_head(modules, reached(modules.adaptable, asked))
    return sorted(asked)


def check_other_names(modules: Modules, lora: Mapping[str, Any]) -> None:
    """Nothing, if each module and layer that is named beside target_modules is there.

    Raises: InvalidTuningConfig.
    """
    for setting in ("modules_to_save", "exclude_modules", "rank_pattern", "alpha_pattern"):
        asked = lora.get(setting) or ()
        for name in [asked] if isinstance(asked, str) else asked:
            pattern = rf"(.*\.)?({name})"
            if not any(re.fullmatch(pattern, module) for module in modules.names):
                raise _no_such_layer(modules, [name], setting=setting)
    asked = lora.get("layers_to_transform")
    numbers = [asked] if isinstance(asked, int) else asked or ()
    if beyond := [number for number in numbers if number >= modules.layers]:
        raise InvalidTuningConfig(
            f"LoraConfig.layers_to_transform names layer {beyond[0]}",
            f"{modules.model} has {modules.layers}, from 0 to {modules.layers - 1}",
            "name some of those",
        )


def excluded(
    modules: Modules, targets: str | Sequence[str], exclude: str | list[str] | None
) -> str | list[str] | None:
    """PEFT's exclude_modules: the user's, and all that is outside the text part.

    What sees or hears keeps its weights as they are: the data is text, and servers of adapters load
    none there. exclude: the user's; None where nothing has to be left out.
    """
    within = f"{modules.text}."
    if all(name.startswith(within) for name in reached(modules.adaptable, targets)):
        return exclude
    outside = rf"(?!{re.escape(within)}).*"
    if not exclude:
        return outside
    own = exclude if isinstance(exclude, str) else rf"(.*\.)?({'|'.join(map(re.escape, exclude))})"
    return f"{outside}|{own}"


def reached(names: Iterable[str], targets: str | Sequence[str]) -> list[str]:
    """The modules of those names that PEFT matches: a pattern the whole name, a list its end."""
    if isinstance(targets, str):
        return [name for name in names if re.fullmatch(targets, name)]
    return [name for name in names if any(_is_named(name, each) for each in targets)]


def _check_pattern(modules: Modules, asked: str) -> str:
    layers = reached(modules.adaptable, asked)
    if not layers:
        raise InvalidTuningConfig(
            f"LoraConfig.target_modules is {asked!r}, a pattern for whole names as text is",
            f"{modules.model} has no layer whose whole name it fits",
            f"put names into a list, [{asked}], or write a pattern such as .*\\.q_proj",
        )
    _expect_no_head(modules, layers)
    if wrong := sorted({*reached(("", *modules.names), asked)} - {*layers}):
        raise InvalidTuningConfig(
            f"LoraConfig.target_modules is {asked!r}",
            f"that fits {wrong[0] or 'the whole model'!r} as well, which takes no adapter",
            f"name some of {', '.join(find_targets(modules))}",
        )
    return asked


def _expect_no_head(modules: Modules, layers: Sequence[str]) -> None:
    if modules.head in layers:
        raise InvalidTuningConfig(
            "LoraConfig.target_modules names the output head",
            "it gets no adapter (the loss is computed from its weight)",
            f"use some of {', '.join(find_targets(modules))}",
        )


def _no_such_layer(
    modules: Modules, names: Sequence[str], *, setting: str = "target_modules"
) -> InvalidTuningConfig:
    has = f"it has {', '.join(find_targets(modules))}"
    return InvalidTuningConfig(
        f"LoraConfig.{setting} names {', '.join(names)}",
        f"{modules.model} has no layer of that name",
        f"{has} (leave {setting} out to get them all)" if setting == "target_modules" else has,
    )


def _is_named(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")


def _last(name: str) -> str:
    return name.rpartition(".")[2]
