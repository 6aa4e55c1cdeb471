"""How many tokens an engine holds: of one conversation, and of all that is in work."""

from typing import Any

import torch

from serving.model.free_memory import free_memory_bytes
from tasks.contract.programs.serving import ServerConfig

_CACHE_SHARE_OF_FREE_MEMORY = 0.6
_KEPT_SHARE = 0.25
MOST_KEPT_TOKENS = 2**15


def context_tokens(config: ServerConfig, model: Any) -> int:
    """The most tokens of a prompt and its answer that the model knows and the settings allow."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096
    return min(int(own), config.max_context_tokens or int(own))


def cache_tokens(model: Any) -> int:
    """How many tokens' keys and values fit into what the weights left free."""
    text = model.config.get_text_config()
    # Where layers differ, each has a configuration of its own.
    layers = getattr(text, "per_layer_config", None) or [text] * text.num_hidden_layers
    numbers = 2 * sum(_kv_width(layer) for layer in layers)
    bytes_per_token = numbers * model.dtype.itemsize
    return int(_free_bytes(model) * _CACHE_SHARE_OF_FREE_MEMORY / bytes_per_token)


def shares(tokens: int) -> tuple[int, int]:
    """How many of the tokens that fit beginnings keep, and how many what is in work may have."""
    kept = min(int(tokens * _KEPT_SHARE), MOST_KEPT_TOKENS)
    return kept, tokens - kept


def _kv_width(layer: Any) -> int:
    """The width of a layer's keys, all heads together."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(heads * width)


def _free_bytes(model: Any) -> int:
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0])
    return free_memory_bytes()
