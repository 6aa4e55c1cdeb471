"""Adapters as one: the weighted sum of what each changes, exactly.

LoRA changes a layer by s B A. A sum of such is [w1 s1 B1, w2 s2 B2] [A1; A2]: ranks side by side,
with nothing cut off. What an adapter leaves alone is filled up with zeros, so that all layers of
the blend have one rank.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.model.adapters import adapter_config, check_mixes
from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.serving import AdapterSource

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_MOST_RANK = 1024  # beyond it a blend costs each token as much as layers of a small model do


def blend(parts: Sequence[AdapterSource], folder: Path) -> None:
    """Write an adapter that does what the parts do together, each times its strength.

    Raises: AdapterMismatch: one is more than plain LoRA, or their ranks are too many.
    """
    import torch
    from safetensors.torch import load_file, save_file

    for part in parts:
        check_mixes(part)
    weights = [load_file(part.path / "adapter_model.safetensors") for part in parts]
    ranks = [max(each[key].shape[0] for key in each if key.endswith(_A)) for each in weights]
    if sum(ranks) > _MOST_RANK:
        raise AdapterMismatch(
            f"{', '.join(part.name for part in parts)} were to be blended",
            f"their ranks are {sum(ranks)} together, a blend has {_MOST_RANK} at most",
            "blend fewer, or adapters of lower rank",
        )
    configs = [adapter_config(part) for part in parts]
    layers = sorted({key.removesuffix(_A) for each in weights for key in each if key.endswith(_A)})
    blended: dict[str, torch.Tensor] = {}
    for layer in layers:
        inner, outer = [], []
        shapes = next(
            (each[layer + _A], each[layer + _B]) for each in weights if layer + _A in each
        )
        for part, config, own, rank in zip(parts, configs, weights, ranks, strict=True):
            down = torch.zeros(rank, shapes[0].shape[1])
            up = torch.zeros(shapes[1].shape[0], rank)
            if layer + _A in own:
                held = own[layer + _A].shape[0]
                scale = part.strength * _scale(config, layer.removeprefix(_PREFIX), held)
                down[:held] = own[layer + _A].float()
                up[:, :held] = scale * own[layer + _B].float()
            inner.append(down)
            outer.append(up)
        blended[layer + _A] = torch.cat(inner)
        blended[layer + _B] = torch.cat(outer, dim=1)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(blended, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    told = _config(configs[0], layers, rank=sum(ranks))
    (folder / "adapter_config.json").write_text(json.dumps(told, indent=2))


def _scale(config: dict[str, Any], layer: str, rank: int) -> float:
    """What an adapter's own settings multiply a layer's B A with."""
    from peft.utils.other import get_pattern_key

    alphas: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = alphas.get(get_pattern_key([*alphas], layer), float(config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _config(first: dict[str, Any], layers: Sequence[str], *, rank: int) -> dict[str, Any]:
    """The settings of a blend: its B holds all scales, so that its own is 1."""
    kept = ("peft_type", "task_type", "base_model_name_or_path", "revision", "fan_in_fan_out")
    return {key: first[key] for key in kept if key in first} | {
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": [layer.removeprefix(_PREFIX) for layer in layers],
        "inference_mode": True,
    }
