"""The modules of a loaded model, by which adapters are placed.

Every linear layer inside the transformer blocks, fused ones (qkv_proj, gate_up_proj, GPT-2's
Conv1D) as they are; not the output head and not the embeddings, which lie outside the blocks.
"""

import re

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.contract.modules import Modules

# `model.layers.0.`: the blocks are the one list of alike modules that linear layers repeat in.
_IN_A_BLOCK = re.compile(r"\.\d+\.")


def modules_of(model: PreTrainedModel) -> Modules:
    """What the model has, by name."""
    named = {name: module for name, module in model.named_modules() if name}
    names = {module: name for name, module in named.items()}
    head = names.get(model.get_output_embeddings(), "")  # type: ignore[no-untyped-call]
    text = names.get(model.get_decoder(), model.base_model_prefix)  # type: ignore[no-untyped-call]
    return Modules(
        model=type(model).__name__,
        model_type=model.config.model_type,
        names=tuple(named),
        linear=tuple(
            name
            for name, module in named.items()
            if isinstance(module, nn.Linear | Conv1D)
            and name != head
            and name.startswith(f"{text}.")
            and _IN_A_BLOCK.search(f".{name}")
        ),
        adaptable=tuple(name for name, module in named.items() if _takes_an_adapter(module)),
        head=head,
        text=text,
        layers=model.config.get_text_config().num_hidden_layers,
    )


def _takes_an_adapter(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D | nn.Embedding | nn.Conv1d)
