"""A Hugging Face model folder out of one GGUF file of the Llama family, without torch.

What the file's quantisation lost stays lost: the weights are spread out to bfloat16 as they are.
transformers reads such a file to the same bits and the same tokens, but needs torch and several
times the time for it: this folder is made in seconds at a first start.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from numpy.typing import NDArray

# GGUF's name for a part of a layer, and Hugging Face's.
_LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_PARTS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL_TOKEN = 3  # the GGUF token type of <|im_end|> and its like


class UnknownLayout(Exception):
    """The file holds another architecture or tokenizer than this module can write."""


def write(gguf_file: Path, *, into: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files.

    Raises: UnknownLayout.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    layout = (facts["general.architecture"], facts.get("tokenizer.ggml.pre"))
    if layout != ("llama", "smollm"):
        raise UnknownLayout(f"architecture {layout[0]} with tokenizer {layout[1]}")
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    _write_json(into / "config.json", _config(facts, tied=tied))
    _write_json(into / "generation_config.json", _special_ids(facts))
    _write_tokenizer(facts, into)
    _write_weights(reader, facts, into / "model.safetensors")


def _config(facts: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads = facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "num_attention_heads": heads,
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts.get("llama.attention.head_count_kv", heads),
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": facts.get("llama.rope.freq_base", 10000.0),
        },
        "tie_word_embeddings": tied,
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        **_special_ids(facts),
    }


def _special_ids(facts: dict[str, Any]) -> dict[str, int]:
    ids = {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id"),
    }
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def _write_tokenizer(facts: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(facts, tokens))
    if template := facts.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template)


def _tokenizer_config(facts: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    named = {
        "bos_token": facts["tokenizer.ggml.bos_token_id"],
        "eos_token": facts["tokenizer.ggml.eos_token_id"],
        "unk_token": facts.get("tokenizer.ggml.unknown_token_id"),
        "pad_token": facts.get("tokenizer.ggml.padding_token_id"),
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": facts["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        **{name: tokens[index] for name, index in named.items() if index is not None},
    }


def _write_weights(reader: "GGUFReader", facts: dict[str, Any], path: Path) -> None:
    """One safetensors file: the header's length, the header, then the tensors one after another.

    Written by hand because the library's own writer takes bfloat16 from torch only.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    end = 0
    for name, values in _tensors(reader, facts):
        blobs.append(_bfloat16(values))
        begin, end = end, end + len(blobs[-1])
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        file.writelines(blobs)


def _tensors(
    reader: "GGUFReader", facts: dict[str, Any]
) -> Iterator[tuple[str, "NDArray[np.float32]"]]:
    from gguf.quants import dequantize

    query_heads = facts["llama.attention.head_count"]
    heads = {
        "attn_q": query_heads,
        "attn_k": facts.get("llama.attention.head_count_kv", query_heads),
    }
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = _unpermuted(values, heads=heads[part])
        yield _hugging_face_name(tensor.name), values


def _hugging_face_name(name: str) -> str:
    if name in _OTHER_PARTS:
        return _OTHER_PARTS[name]
    try:
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{_LAYER_PARTS[part]}.{kind}"
    except (ValueError, KeyError):
        raise UnknownLayout(f"tensor {name}") from None


def _unpermuted(values: "NDArray[np.float32]", *, heads: int) -> "NDArray[np.float32]":
    """Rows in Hugging Face's order: GGUF interleaves the two halves that rotate together."""
    rows, columns = values.shape
    split = values.reshape(heads, rows // heads // 2, 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)


def _bfloat16(values: "NDArray[np.float32]") -> bytes:
    """The upper halves of the floats, rounded to the nearest, ties to even; all values finite."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype(np.uint16).tobytes()


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2))
