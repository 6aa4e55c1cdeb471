"""The layers of a base model and how wide they are, in memory or as its files tell it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How many features go in and come out; None = the layer is not linear, or its files do not tell.
Sides = tuple[int | None, int | None]
Layers = Mapping[str, Sides]


def layers_of(model: "PreTrainedModel") -> Layers:
    """The layers of a model in memory, by name."""
    return {
        name: (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
        for name, layer in model.named_modules()
    }


def layers_in(weights_dir: Path) -> Layers:
    """The layers that a folder's weights are of, out of the files' headers alone.

    A layer whose weights are stored quantised is there without its width.
    """
    from safetensors import safe_open

    found: dict[str, Sides] = {}
    for path in sorted(weights_dir.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                name, _, kind = key.rpartition(".")
                shape = tuple(file.get_slice(key).get_shape())
                if kind == "weight" and len(shape) == 2:
                    found[name] = (shape[1], shape[0])
                else:
                    found.setdefault(name, (None, None))
    return found
