"""The model catalogue: what a preset's name stands for. A new model: an entry in catalogue.yaml."""

import difflib
import functools
import re
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict

from tasks.contract.errors import UnknownPreset
from tasks.contract.shapes import ModelShape

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BYTES_PER_PARAMETER = 2  # bfloat16, the type that most models are published in
_GIB = 2**30


class Preset(BaseModel):
    """One base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str
    revision: str = "main"
    size_gib: float | None = None
    context_tokens: int | None = None
    kv_bytes_per_token: int | None = None
    quantized: str | None = None
    gated: bool = False
    licence: str | None = None
    runs_on_cpu: bool = False
    shape: ModelShape | None = None
    wheel: str | None = None
    wheel_sha256: str | None = None

    @property
    def parameters(self) -> int | None:
        """Parameters: of the shape, else from the published size; None when neither is known."""
        if self.shape:
            return self.shape.parameters
        if self.size_gib is None or self.quantized:
            return None
        return round(self.size_gib * _GIB / _BYTES_PER_PARAMETER)


@functools.cache
def catalogue() -> dict[str, Preset]:
    """Every preset by its lower-case name."""
    text = files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    entries = [Preset.model_validate(entry) for entry in yaml.safe_load(text)["presets"]]
    return {entry.name.lower(): entry for entry in entries}


def find_preset(name: str) -> Preset:
    """The catalogue's entry for a preset name or Hugging Face id; a bare entry for an unlisted id.

    Raises: UnknownPreset: neither in the catalogue nor shaped `owner/name`; offers near names.
    """
    wanted = name.lower()
    known = catalogue()
    if wanted in known:
        return known[wanted]
    by_model = {entry.model.lower(): entry for entry in known.values()}
    if wanted in by_model:
        return by_model[wanted]
    if _HUB_ID.fullmatch(name):
        return Preset(name=name.split("/")[1].lower(), model=name)
    near = difflib.get_close_matches(wanted, sorted(known), n=3, cutoff=0.4)
    offer = f"did you mean {', '.join(near)}? " if near else ""
    raise UnknownPreset(
        f"preset {name!r} was asked for",
        f"the catalogue has {len(known)} models and this is none of them",
        f"{offer}use a catalogue name or a Hugging Face id such as owner/model",
    )
