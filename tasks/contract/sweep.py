"""A sweep: which settings are tried, and which of them is kept. Pure."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.strict_yaml import load_document
from tasks.contract.training_config import ROOT, section_of

# Each is a whole training; and so many adapters are kept beside what was there before.
MOST_TRIED = 8

# By name in its section, `LoraConfig.r`.
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What settings came to.

    loss_before, loss: on held-out answers; None = there are none, for the reason in `why`.
    """

    settings: Settings
    loss_before: float | None = None
    loss: float | None = None
    why: str = ""

    @property
    def told(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())


def parse_sweep(asked: Sequence[str]) -> list[Settings]:
    """All combinations of `learning_rate=1e-4,2e-4` and `r=8,16`, the last one changing fastest.

    Raises: InvalidTuningConfig.
    """
    lists: dict[str, list[Any]] = {}
    for one in asked:
        name, equals, values = one.partition("=")
        if not (equals and name and values):
            raise _refused(one, "that is no setting with its values")
        section, _, key = name.rpartition(".")
        full = f"{section or section_of(key) or ''}.{key}"
        if full.startswith("."):
            raise _refused(one, f"there is no setting {name} that a training could try")
        if full.startswith("DatasetConfig."):
            raise _refused(one, "the trainings would not be measured on the same rows")
        if full in lists:
            raise _refused(one, f"{full} stands there twice")
        lists[full] = [yaml.safe_load(value) for value in values.split(",")]
    count = math.prod(len(values) for values in lists.values())
    if not 2 <= count <= MOST_TRIED:
        raise _refused(
            " ".join(asked), f"that is {count} training(s); a sweep is of 2 to {MOST_TRIED}"
        )
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def with_settings(text: str | None, settings: Settings) -> str:
    """A training_config.yaml with some of its settings replaced.

    Args: text: one that can be used; None = the defaults.
    """
    loaded = load_document(text) if text else None
    document: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    sections = dict(document.get(ROOT) or {})
    for name, value in settings.items():
        section, _, key = name.partition(".")
        sections[section] = {**(sections.get(section) or {}), key: value}
    return yaml.safe_dump({**document, ROOT: sections}, sort_keys=False)


def best(tried: Sequence[Tried]) -> Tried | None:
    """What left the lowest loss on held-out answers, the first of equals; None = none has any."""
    measured = [each for each in tried if each.loss is not None]
    return min(measured, key=lambda each: each.loss or 0.0, default=None)


def _refused(asked: str, found: str) -> InvalidTuningConfig:
    return InvalidTuningConfig(
        f"a sweep over {asked!r} was asked for",
        found,
        "write --set learning_rate=1e-4,2e-4 --set r=8,16",
    )
