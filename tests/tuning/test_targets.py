"""Which layers get an adapter, over the architectures that name them differently."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
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

from serving.model.loading import load_base_model
from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.modules import Modules, check_other_names, check_targets, excluded, find_targets
from tasks.contract.training_config import parse_training_config
from tasks.presets.modules import modules_of_architecture
from tasks.tuning.pod.model import lora_settings
from tasks.tuning.pod.targets import modules_of
from tests.gpu.architectures import BUILT, write_tiny

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


def modules(config: PretrainedConfig) -> Modules:
    return modules_of(build(config))


@pytest.mark.parametrize("family", EXPECTED)
def test_all_linear_layers_of_the_blocks_are_found(family: str) -> None:
    config, expected = EXPECTED[family]
    assert find_targets(modules(config)) == expected


def test_a_mixture_of_experts_gets_adapters_on_its_attention_at_least() -> None:
    sizes = SIZES | {"num_local_experts": 2, "num_experts_per_tok": 1}
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= set(
        find_targets(modules(MixtralConfig(**sizes)))
    )


def test_given_names_are_used_as_they_are() -> None:
    names = modules(EXPECTED["llama"][0])
    assert check_targets(names, ["v_proj", "q_proj"]) == ["q_proj", "v_proj"]
    assert check_targets(names, r".*\.0\..*q_proj") == r".*\.0\..*q_proj"
    assert check_targets(names, "all-linear") == SPLIT


def test_a_name_that_matches_nothing_is_refused_with_those_that_would() -> None:
    names = modules(EXPECTED["phi3"][0])
    with pytest.raises(InvalidTuningConfig) as raised:
        check_targets(names, ["q_proj", "o_proj"])
    assert "names q_proj; Phi3ForCausalLM has no layer of that name" in str(raised.value)
    assert "it has down_proj, gate_up_proj, o_proj, qkv_proj" in str(raised.value)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InvalidTuningConfig, match="has no layer"):
        check_targets(modules(EXPECTED["gpt2"][0]), "q_proj")


def test_the_output_head_gets_no_adapter() -> None:
    with pytest.raises(InvalidTuningConfig, match="names the output head"):
        check_targets(modules(EXPECTED["llama"][0]), ["q_proj", "lm_head"])


def test_a_model_without_linear_layers_in_its_blocks_is_refused() -> None:
    names = modules(AutoConfig.for_model("llama", **SIZES | {"num_hidden_layers": 0}))
    with pytest.raises(InvalidTuningConfig, match=r"set LoraConfig.target_modules"):
        find_targets(names)


@pytest.mark.parametrize(
    "asked",
    [
        {"modules_to_save": ["lm_hed"]},
        {"exclude_modules": ["k_prj"]},
        {"rank_pattern": {"q_porj": 4}},
        {"alpha_pattern": {"layers.7.mlp.*": 4}},
        {"layers_to_transform": [0, 99]},
    ],
    ids=str,
)
def test_a_name_that_the_model_has_nowhere_is_told_by_its_setting(asked: dict[str, Any]) -> None:
    (setting,) = asked
    with pytest.raises(InvalidTuningConfig, match=rf"LoraConfig\.{setting} names"):
        check_other_names(modules(EXPECTED["llama"][0]), asked)


def test_names_that_the_model_has_are_taken() -> None:
    asked = {
        "modules_to_save": ["lm_head"],
        "exclude_modules": r".*layers\.0\..*",
        "rank_pattern": {"q_proj": 4, r"layers\.[01]\.mlp\.up_proj": 2},
        "layers_to_transform": 1,
    }
    check_other_names(modules(EXPECTED["llama"][0]), asked)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (".*", "names the output head"),
        (".*layers.*", "takes no adapter"),
        ("q_proj", r"put names into a list, \[q_proj\]"),
        ("lm_head", "names the output head"),
    ],
)
def test_a_pattern_that_fits_too_much_or_nothing_is_told(pattern: str, words: str) -> None:
    with pytest.raises(InvalidTuningConfig, match=words):
        check_targets(modules(EXPECTED["llama"][0]), pattern)


def test_of_a_model_that_sees_the_text_part_alone_gets_adapters(tmp_path: Path) -> None:
    model = load_base_model(write_tiny("gemma3", tmp_path), dtype=torch.float32, device="cpu")
    adapted = get_peft_model(
        model, lora_settings(parse_training_config(None, method="lora"), model)
    )
    layers = [name for name, part in adapted.named_modules() if isinstance(part, LoraLayer)]
    assert len(layers) == 14
    assert all(".language_model." in name for name in layers)


@pytest.mark.parametrize("asked", [["q_proj"], r".*\.q_proj"])
@pytest.mark.parametrize("exclude", [None, ["layers.0.self_attn.q_proj"], r".*\.layers\.0\..*"])
def test_what_sees_is_left_out_whatever_else_is(
    tmp_path: Path, asked: str | list[str], exclude: str | list[str] | None
) -> None:
    names = modules_of(
        load_base_model(write_tiny("gemma3", tmp_path), dtype=torch.float32, device="cpu")
    )
    config = LoraConfig(target_modules=asked, exclude_modules=excluded(names, asked, exclude))
    taken = [name for name in names.adaptable if check_target_module_exists(config, name)]
    layers = ["0", "1"] if exclude is None else ["1"]
    assert taken == [f"model.language_model.layers.{n}.self_attn.q_proj" for n in layers]


def test_a_model_of_text_alone_has_nothing_left_out() -> None:
    names = modules(EXPECTED["llama"][0])
    assert excluded(names, ["q_proj"], None) is None
    assert excluded(names, ["q_proj"], ["k_proj"]) == ["k_proj"]


@pytest.mark.parametrize("architecture", sorted(BUILT - {"gemma4", "gemma4_unified"}))
def test_the_table_has_the_modules_that_a_model_has(architecture: str, tmp_path: Path) -> None:
    """Blocks of several kinds, such as attention and Mamba, have the names of all of them there."""
    model = load_base_model(write_tiny(architecture, tmp_path), dtype=torch.float32, device="cpu")
    built = modules_of(model)
    table = modules_of_architecture(architecture, model=built.model, layers=built.layers)
    assert table
    assert (table.targets, table.head, table.text) == (built.targets, built.head, built.text)
    assert {*built.names} <= {*table.names}
    assert {_general(name) for name in table.names} <= {_general(name) for name in built.names}
    assert {*built.adaptable} <= {*table.adaptable}


def _general(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".N", name)
