"""The names of a catalogue model's modules, without the model: `modules.yaml`, by architecture."""

import functools
from importlib.resources import files
from typing import Any

import yaml

from tasks.contract.modules import Modules
from tasks.presets import Preset

_NUMBER = ".N"


def modules_of_preset(preset: Preset) -> Modules | None:
    """What the preset's model has, by name; None where that is not known without its weights."""
    if preset.shape is None:
        return None
    return modules_of_architecture(
        preset.architecture, model=preset.model, layers=preset.shape.layers
    )


def modules_of_architecture(architecture: str, *, model: str, layers: int) -> Modules | None:
    """What a model of the architecture with so many blocks has; None where it is in no entry.

    Blocks of several kinds have the names of them all here.
    """
    entry = _entries().get(architecture)
    if entry is None:
        return None
    block = f"{entry['text']}.layers{_NUMBER}."

    def named(*keys: str) -> list[str]:
        return [name for key in keys for name in entry.get(key, "").split()]

    def numbered(names: list[str]) -> list[str]:
        return [name.replace(_NUMBER, f".{number}") for number in range(layers) for name in names]

    linear = numbered([block + name for name in named("linear")])
    adaptable = numbered([block + name for name in named("adaptable")] + named("adaptable_beside"))
    other = numbered([block + name for name in named("block")] + named("beside"))
    return Modules(
        model=model,
        model_type=architecture,
        names=tuple(dict.fromkeys((*other, *linear, *adaptable))),
        linear=tuple(linear),
        adaptable=tuple(dict.fromkeys((*linear, *adaptable))),
        head=entry["head"],
        text=entry["text"],
        layers=layers,
    )


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    text = files(__package__).joinpath("modules.yaml").read_text(encoding="utf-8")
    return {name: entry for entry in yaml.safe_load(text) for name in entry["architectures"]}
