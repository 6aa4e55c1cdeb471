"""A tiny random model of each architecture that the catalogue names, as its publishers write it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.tuning.tiny import SPECIAL, tiny_tokenizer

_VOCABULARY = 256 + len(SPECIAL)
_DENSE = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_HEADS = _DENSE | {"head_dim": 16}
SLIDING = ("sliding_attention", "full_attention")
_SLIDING = {"layer_types": [*SLIDING]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_HYBRID = _HEADS | {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_GEMMA_4 = _HEADS | _SLIDING | {"global_head_dim": 32}
_NEMOTRON = {key: value for key, value in _HEADS.items() if key != "num_hidden_layers"} | {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 16,
    "chunk_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 32,
}
_TEXT: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("llama", "phi3", "qwen2", "mistral", "granite"), _DENSE),
    "nemotron_h": _NEMOTRON,
}
# Architectures that see as well: the text model within, and its configuration.
_SEEING: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gemma3": ("gemma3_text", _HEADS | _SLIDING),
    "gemma4": (
        "gemma4_text",
        _GEMMA_4
        | {"vocab_size_per_layer_input": _VOCABULARY, "hidden_size_per_layer_input": 8}
        | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
        | {"moe_intermediate_size": 16},
    ),
    "gemma4_unified": ("gemma4_unified_text", _GEMMA_4),
    "qwen3_5": ("qwen3_5_text", _HYBRID),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        _HYBRID | _EXPERTS | {"shared_expert_intermediate_size": 32},
    ),
}
_SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 64,
    "image_size": 28,
    "patch_size": 14,
    "head_dim": 16,
    "global_head_dim": 16,
    "deepstack_visual_indexes": [],
}
BUILT = frozenset({*_TEXT, *_SEEING})


def write_tiny(architecture: str, folder: Path, **text: Any) -> Path:
    """A model folder of one of `BUILT`, with random weights and a tokenizer.

    text: settings of the text model that are other ones.
    """
    torch.manual_seed(0)
    if architecture in _TEXT:
        config = CONFIG_MAPPING[architecture](**{**_TEXT[architecture], **text})
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    else:
        config = _seeing(architecture, text)
        model = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _seeing(architecture: str, text: Mapping[str, Any]) -> Any:
    name, settings = _SEEING[architecture]
    whole: Any = CONFIG_MAPPING[architecture]
    parts: dict[str, Any] = {"text_config": CONFIG_MAPPING[name](**{**settings, **text}).to_dict()}
    sight = whole().vision_config
    if sight is not None:
        small = {key: value for key, value in _SIGHT.items() if hasattr(sight, key)}
        parts["vision_config"] = type(sight)(**small).to_dict()
    if architecture.startswith("gemma4"):
        parts["audio_config"] = None
    return whole(**parts, tie_word_embeddings=False)
