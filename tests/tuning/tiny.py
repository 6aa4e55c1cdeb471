"""A tiny model, a byte-level tokenizer and chat templates of the families in use."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SPECIAL = (
    *("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|user|>", "<|assistant|>", "[INST]", "[/INST]"),
)
TURNS = "{% for message in messages %}"
END = "{% endfor %}"
ASKS = "{% if add_generation_prompt %}"
CHATML = (
    TURNS
    + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    + END
    + ASKS
    + "<|im_start|>assistant\n{% endif %}"
)
CHATML_WITH_MARKS = (
    TURNS + "{% if message.role == 'assistant' %}<|im_start|>assistant\n{% generation %}"
    "{{ message.content }}<|im_end|>{% endgeneration %}\n{% else %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}"
    + END
    + ASKS
    + "<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "<s>" + TURNS + "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>"
    + END
    + ASKS
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PHI3 = (
    TURNS
    + "<|{{ message.role }}|>\n{{ message.content }}<|end|>\n"
    + END
    + ASKS
    + "<|assistant|>\n{% else %}</s>{% endif %}"
)
MISTRAL = (
    "<s>" + TURNS + "{% if message.role == 'system' %}{{ raise_exception('no system here') }}"
    "{% elif message.role == 'user' %}[INST] {{ message.content }}[/INST]"
    "{% else %} {{ message.content }}</s>{% endif %}" + END
)
WITHOUT_END = (
    TURNS + "{{ message.role }}: {{ message.content }}\n" + END + ASKS + "assistant: {% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "chatml with marks": CHATML_WITH_MARKS,
    "llama 3": LLAMA3,
    "phi 3": PHI3,
    "mistral": MISTRAL,
}


def tiny_tokenizer(template: str | None = CHATML, *, pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """One token a byte, and the special tokens of all templates."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token=pad
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_llama(*, seed: int = 0) -> LlamaForCausalLM:
    """Two layers, 64 wide, float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config)


def write_tiny_experts(folder: Path) -> Path:
    """A model folder like `write_tiny_weights`, whose blocks have four experts."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=256 + len(SPECIAL),
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_tiny_weights(folder: Path) -> Path:
    """A model folder, as the weights program leaves them."""
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def chat(*turns: str) -> dict[str, Any]:
    """A row of turns, user and assistant in turn."""
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[number % 2], "content": text} for number, text in enumerate(turns)
        ]
    }


def chats(count: int) -> list[dict[str, Any]]:
    """Rows of different lengths that have something to learn."""
    return [chat(f"add {n} and {n}" + "!" * (n % 7), f"It is {2 * n}.") for n in range(count)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
