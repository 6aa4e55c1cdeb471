"""A GGUF file out of a SmolLM2 folder, bit for bit the same weights: what llama.cpp reads.

The way back of `serving.weights.gguf_folder`, whose names it shares.
"""

import json
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from safetensors.torch import load_file
from transformers import AutoConfig

from serving.weights.gguf_folder import _LAYER_PARTS, _OTHER_PARTS

_PARTS = {hugging_face: gguf for gguf, hugging_face in _LAYER_PARTS.items()}
_WHOLE = {hugging_face: gguf for gguf, hugging_face in _OTHER_PARTS.items()}
# llama.cpp's "smollm": each digit a token of its own, then bytes.
_PRE_TOKENIZER = ["Digits", "ByteLevel"]


class OtherModel(Exception):
    """The folder holds a model or tokenizer that this module cannot write; says which."""


def write_gguf(weights: Path, file: Path) -> Path:
    """Write weights, tokenizer and chat template as one file, in bfloat16 (norms in float32).

    Raises: OtherModel.
    """
    config = AutoConfig.from_pretrained(weights)
    tokenizer = json.loads((weights / "tokenizer.json").read_text())
    splits = [each["type"] for each in (tokenizer["pre_tokenizer"] or {}).get("pretokenizers", ())]
    if config.model_type != "llama" or splits != _PRE_TOKENIZER:
        raise OtherModel(f"a {config.model_type} whose tokenizer splits by {splits or 'nothing'}")
    writer = GGUFWriter(file, "llama")
    _add_shape(writer, config)
    _add_tokenizer(writer, config, tokenizer, template=_template(weights))
    _add_weights(writer, config, load_file(weights / "model.safetensors"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(
    writer: GGUFWriter, config: Any, tokenizer: dict[str, Any], *, template: str | None
) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    special = {each["id"] for each in tokenizer["added_tokens"] if each["special"]}
    kinds = [
        TokenType.CONTROL if token_id in special else TokenType.NORMAL
        for token_id in range(len(vocabulary))
    ]
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types(kinds)
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(value=False)
    if config.pad_token_id is not None:
        writer.add_pad_token_id(config.pad_token_id)
    if template:
        writer.add_chat_template(template)


def _template(weights: Path) -> str | None:
    file = weights / "chat_template.jinja"
    if file.exists():
        return file.read_text()
    template = json.loads((weights / "tokenizer_config.json").read_text()).get("chat_template")
    return None if template is None else str(template)


def _add_weights(writer: GGUFWriter, config: Any, tensors: dict[str, torch.Tensor]) -> None:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for key, tensor in tensors.items():
        name = _name(key)
        part = name.split(".")[-2]
        if part in heads:
            tensor = _permuted(tensor, heads=heads[part])  # noqa: PLW2901 - the same, reordered
        if tensor.dim() == 1:
            writer.add_tensor(name, tensor.float().numpy())
        else:
            bits = tensor.bfloat16().contiguous().view(torch.uint8).numpy()
            writer.add_tensor(name, bits, raw_dtype=GGMLQuantizationType.BF16)


def _name(key: str) -> str:
    if key in _WHOLE:
        return _WHOLE[key]
    _, _, layer, part = key.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_PARTS[part]}.weight"


def _permuted(tensor: torch.Tensor, *, heads: int) -> torch.Tensor:
    """Rows in GGUF's order, which interleaves the two halves that rotate together."""
    rows, columns = tensor.shape
    halves = tensor.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)
