"""A model's shape, out of its config.json and the sizes of its tensors. Pure."""

import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from tasks.contract.shapes import ModelShape

# Each name that some architecture gives to the same number.
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_INTERMEDIATE = ("intermediate_size", "n_inner", "ffn_dim")
_HEADS = ("num_attention_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", *_HEADS)
# Where layers differ, a list says of which kind each is.
_LAYER_LIST = "layers_block_type"
# In the name of a routed expert's tensor, published one by one or a layer's together.
EXPERTS = ".experts."
_PER_LAYER_EMBEDDINGS = "embed_tokens_per_layer"
_CHOSEN_EXPERTS = ("num_experts_per_tok", "top_k_experts")
_ALL_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# An expert is a gated feed-forward network: three matrices.
_EXPERT_MATRICES = 3


def shape_of(config: Mapping[str, Any], tensors: Iterable[tuple[str, int]]) -> ModelShape:
    """The numbers that memory follows from.

    Args: config: as config.json has it. tensors: each one's name, and of how many numbers it is.
    Raises: KeyError, ValueError, TypeError: the configuration does not say what it has to.
    """
    config = config.get("text_config") or config
    hidden, heads = _first(config, _HIDDEN), _first(config, _HEADS)
    head_width = config.get("head_dim") or hidden // heads
    tensors = list(tensors)
    return ModelShape(
        parameters=sum(numbers for _, numbers in tensors),
        expert_parameters=sum(numbers for name, numbers in tensors if EXPERTS in name),
        per_layer_embeddings=sum(n for name, n in tensors if _PER_LAYER_EMBEDDINGS in name),
        layers=_first(config, _LAYERS, default=len(config.get(_LAYER_LIST, ())) or None),
        hidden=hidden,
        intermediate=_intermediate(config, hidden),
        vocabulary=config["vocab_size"],
        heads=heads,
        kv_hidden=_first(config, _KV_HEADS) * head_width,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def expert_numbers(config: Mapping[str, Any]) -> int:
    """How many numbers a mixture's experts are, all layers' together.

    Raises: KeyError: it does not say.
    """
    config = config.get("text_config") or config
    width = config.get("moe_intermediate_size") or _first(config, _INTERMEDIATE)
    layers = _first(config, _LAYERS) - (config.get("first_k_dense_replace") or 0)
    one = _EXPERT_MATRICES * _first(config, _HIDDEN) * width
    return _first(config, _ALL_EXPERTS) * one * layers


def header_bytes(beginning: bytes) -> int:
    """Where a safetensors file's header ends, by the file's first eight bytes or more."""
    return 8 + int.from_bytes(beginning[:8], "little")


def read_header(beginning: bytes) -> list[tuple[str, int]]:
    """Each tensor's name, and of how many numbers it is, of a file that begins so.

    Raises: ValueError: it is no such file, or its header does not end.
    """
    header = json.loads(beginning[8 : header_bytes(beginning)])
    return [
        (name, prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__"
    ]


def _intermediate(config: Mapping[str, Any], hidden: int) -> int:
    """The width of what a token passes in a block: of all its experts together, in a mixture."""
    width = _first(config, _INTERMEDIATE, default=4 * hidden)
    chosen: int = next((config[word] for word in _CHOSEN_EXPERTS if config.get(word)), 0)
    if not chosen:
        return width
    one: int = config.get("moe_intermediate_size") or width
    shared: int = config.get("shared_expert_intermediate_size") or one * (
        config.get("n_shared_experts") or 0
    )
    return chosen * one + shared


def _first(config: Mapping[str, Any], names: tuple[str, ...], *, default: int | None = None) -> int:
    found: int | None = next((value for name in names if (value := config.get(name))), default)
    if found is None:
        raise KeyError(names[0])
    return found
