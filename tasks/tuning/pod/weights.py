"""What of a loaded model is quantised and what gets adapters: counted, not taken as asked for."""

import math
from typing import Any

from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from peft.tuners.lora import LoraLayer
from torch import nn

from tasks.contract.errors import ModelNotSupported
from tasks.contract.programs.tuning import WeightCounts
from tasks.contract.shapes import LEAST_QUANTIZED_SHARE

_QUANTIZED = (Linear4bit, Linear8bitLt)
# What the modules of a mixture are called in transformers' architectures.
_EXPERTS = ".experts."


def expect_quantized(model: nn.Module, *, asked: str) -> None:
    """Nothing, if most of the model's weights are quantised, as they were asked to be.

    Layers of an architecture's own kind stay as they are without a word of the library's.

    Raises: ModelNotSupported.
    """
    counts = count_weights(model)
    share = counts.quantized / counts.total
    if share < LEAST_QUANTIZED_SHARE:
        raise ModelNotSupported(
            asked,
            f"only {share:.0%} of its weights could be quantised; the rest, experts, embeddings "
            "and layers of its own kind, stay as they are",
            "use method lora",
        )


def count_weights(model: nn.Module) -> WeightCounts:
    """The counts of the base model, and of the adapter where there is one."""
    quantized = [module for module in model.modules() if isinstance(module, _QUANTIZED)]
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
    sizes = {id(module.weight): _weights(module) for module in quantized}
    own = {name: each for name, each in model.named_parameters() if not _is_added(name)}
    counts = {name: sizes.get(id(each), each.numel()) for name, each in own.items()}
    has_on_experts = any(
        _EXPERTS in f"{name}." for name, module in model.named_modules() if module in adapted
    )
    return WeightCounts(
        total=sum(counts.values()),
        quantized=sum(sizes.values()),
        bits=4 if any(isinstance(module, Linear4bit) for module in quantized) else 8,
        layers=len(adapted),
        adapted=sum(_weights(module.get_base_layer()) for module in adapted),
        trained=sum(each.numel() for each in model.parameters() if each.requires_grad),
        bare_experts=0
        if has_on_experts
        else sum(count for name, count in counts.items() if _EXPERTS in name),
    )


def _weights(layer: Any) -> int:
    """How many a layer has; packed ones say how they were before."""
    state = getattr(layer.weight, "quant_state", None)
    return math.prod(state.shape) if state is not None else int(layer.weight.numel())


def _is_added(name: str) -> bool:
    """Whether PEFT has put a parameter beside the base model's."""
    return ".lora_" in name or ".modules_to_save." in name
