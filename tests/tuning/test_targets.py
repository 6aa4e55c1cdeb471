"""Which layers get an adapter, over the architectures that name them differently."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from tasks.contract.errors import InvalidTuningConfig
from tasks.tuning.pod.targets import check_target_modules, find_target_modules

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SPLIT = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
EXPECTED: dict[str, tuple[PretrainedConfig, list[str]]] = {
    "llama": (LlamaConfig(**SIZES), SPLIT),
    "qwen3": (Qwen3Config(**SIZES), SPLIT),
    "gemma3": (Gemma3TextConfig(**SIZES), SPLIT),
    "phi3": (Phi3Config(**SIZES), ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),
    "gpt2": (
        GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0),
        ["c_attn", "c_fc", "c_proj"],
    ),
    "gpt_neox": (
        GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
        ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    ),
}


def build(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


@pytest.mark.parametrize("family", EXPECTED)
def test_all_linear_layers_of_the_blocks_are_found(family: str) -> None:
    config, expected = EXPECTED[family]
    assert find_target_modules(build(config)) == expected


def test_a_mixture_of_experts_gets_adapters_on_its_attention_at_least() -> None:
    sizes = SIZES | {"num_local_experts": 2, "num_experts_per_tok": 1}
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= set(
        find_target_modules(build(MixtralConfig(**sizes)))
    )


def test_given_names_are_used_as_they_are() -> None:
    model = build(EXPECTED["llama"][0])
    assert check_target_modules(model, ["v_proj", "q_proj"]) == ["q_proj", "v_proj"]
    assert check_target_modules(model, r".*\.0\..*q_proj") == r".*\.0\..*q_proj"
    assert check_target_modules(model, "all-linear") == SPLIT


def test_a_name_that_matches_nothing_is_refused_with_those_that_would() -> None:
    model = build(EXPECTED["phi3"][0])
    with pytest.raises(InvalidTuningConfig) as raised:
        check_target_modules(model, ["q_proj", "o_proj"])
    assert "names q_proj; Phi3ForCausalLM has no layer of that name" in str(raised.value)
    assert "it has down_proj, gate_up_proj, o_proj, qkv_proj" in str(raised.value)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InvalidTuningConfig, match="has no layer"):
        check_target_modules(build(EXPECTED["gpt2"][0]), "q_proj")


def test_the_output_head_gets_no_adapter() -> None:
    with pytest.raises(InvalidTuningConfig, match="names the output head"):
        check_target_modules(build(EXPECTED["llama"][0]), ["q_proj", "lm_head"])


def test_a_model_without_linear_layers_in_its_blocks_is_refused() -> None:
    model = build(AutoConfig.for_model("llama", **SIZES | {"num_hidden_layers": 0}))
    with pytest.raises(InvalidTuningConfig, match=r"set LoraConfig.target_modules"):
        find_target_modules(model)
