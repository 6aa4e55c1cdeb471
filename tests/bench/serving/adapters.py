"""LoRA adapters over a model on the disk, of random weights: what they say is of no concern."""

from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file

RANK = 16
_PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


def write_adapter(folder: Path, weights: Path, *, seed: int) -> Path:
    """An adapter of rank 16 on all linear layers, as the trainer's own are."""
    random = torch.Generator().manual_seed(seed)
    targets = [f"{projection}_proj" for projection in _PROJECTIONS]
    tensors: dict[str, torch.Tensor] = {}
    for layer, (outputs, inputs) in sorted(_linear_layers(weights, targets).items()):
        key = f"base_model.model.{layer}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, inputs, generator=random) / inputs**0.5
        tensors[f"{key}.lora_B.weight"] = torch.randn(outputs, RANK, generator=random) * 0.02
    config = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(weights),
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _linear_layers(weights: Path, targets: list[str]) -> dict[str, tuple[int, int]]:
    """Each layer's name and the shape of its weight, out of the files' headers alone."""
    shapes: dict[str, tuple[int, int]] = {}
    for path in weights.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dictionary
                layer, _, kind = key.rpartition(".")
                if kind == "weight" and layer.rpartition(".")[2] in targets:
                    outputs, inputs = file.get_slice(key).get_shape()
                    shapes[layer] = outputs, inputs
    return shapes
