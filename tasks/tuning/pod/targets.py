"""Which layers of a model get an adapter, found by looking at the model.

Every linear layer inside the transformer blocks, fused ones (qkv_proj, gate_up_proj, GPT-2's
Conv1D) as they are; not the output head and not the embeddings, which lie outside the blocks.
"""

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.contract.errors import InvalidTuningConfig

# `model.layers.0.`: the blocks are the one list of alike modules that linear layers repeat in.
_IN_A_BLOCK = re.compile(r"\.\d+\.")


def find_target_modules(model: PreTrainedModel) -> list[str]:
    """The last names of all linear layers inside the blocks, sorted; PEFT matches on them.

    Raises: InvalidTuningConfig: there is none.
    """
    names = sorted({name.rpartition(".")[2] for name in _linear_layers(model)})
    if not names:
        raise InvalidTuningConfig(
            f"adapters were to go on the linear layers of {type(model).__name__}",
            "it has none in its blocks",
            "set LoraConfig.target_modules",
        )
    return names


def check_target_modules(model: PreTrainedModel, asked: str | Sequence[str]) -> str | list[str]:
    """The names that the user gave, as PEFT wants them: a pattern as it is, a list sorted.

    Raises: InvalidTuningConfig: a name that matches no layer, or the output head.
    """
    if asked == "all-linear":
        return find_target_modules(model)
    layers = [name for name, module in model.named_modules() if _takes_an_adapter(module)]
    if isinstance(asked, str):
        if not any(re.fullmatch(asked, name) for name in layers):
            raise _no_such_layer(model, [asked])
        return asked
    missing = [name for name in asked if not any(_is_named(layer, name) for layer in layers)]
    if missing:
        raise _no_such_layer(model, missing)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    reached = [layer for layer in layers if any(_is_named(layer, name) for name in asked)]
    if any(model.get_submodule(layer) is head for layer in reached):
        raise InvalidTuningConfig(
            "LoraConfig.target_modules names the output head",
            "it gets no adapter (the loss is computed from its weight)",
            f"use some of {', '.join(find_target_modules(model))}",
        )
    return sorted(asked)


def _no_such_layer(model: PreTrainedModel, names: Sequence[str]) -> InvalidTuningConfig:
    return InvalidTuningConfig(
        f"LoraConfig.target_modules names {', '.join(names)}",
        f"{type(model).__name__} has no layer of that name",
        f"it has {', '.join(find_target_modules(model))} (leave target_modules out to get "
        "them all)",
    )


def _linear_layers(model: PreTrainedModel) -> list[str]:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and _IN_A_BLOCK.search(f".{name}")
    ]


def _takes_an_adapter(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D | nn.Embedding | nn.Conv1d)


def _is_named(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")
