"""The numbers that memory follows from are read off what a model's files say of it."""

import json
from typing import Any

import pytest

from tasks.contract.model_config import expert_numbers, header_bytes, read_header, shape_of
from tasks.contract.shapes import ModelShape

LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def shape(*tensors: tuple[str, int], **config: Any) -> ModelShape:
    return shape_of(LLAMA | config, tensors)


def test_a_model_s_shape_is_what_its_configuration_and_its_tensors_say() -> None:
    found = shape(("a", 10), ("b", 20), tie_word_embeddings=True)
    assert found == ModelShape(
        parameters=30,
        layers=2,
        hidden=64,
        intermediate=96,
        vocabulary=100,
        heads=8,
        kv_hidden=16,
        tied_embeddings=True,
    )
    assert not shape().tied_embeddings


def test_names_of_older_architectures_and_nested_configurations_say_the_same() -> None:
    gpt2 = {"n_embd": 64, "n_layer": 2, "n_inner": 96, "n_head": 8, "vocab_size": 100}
    assert shape_of(gpt2, []) == shape(num_key_value_heads=8)
    assert shape_of({"text_config": LLAMA, "vocab_size": 7}, []) == shape()


def test_what_a_configuration_leaves_out_follows_from_the_rest() -> None:
    assert shape(intermediate_size=None).intermediate == 4 * 64
    assert shape(head_dim=16).kv_hidden == 32
    assert shape(num_key_value_heads=None).kv_hidden == 64
    assert (
        shape(num_hidden_layers=None, layers_block_type=["mamba", "attention", "mamba"]).layers == 3
    )
    for missing in ("hidden_size", "num_hidden_layers", "vocab_size"):
        with pytest.raises(KeyError):
            shape_of({key: value for key, value in LLAMA.items() if key != missing}, [])


@pytest.mark.parametrize(
    ("config", "intermediate"),
    [
        ({"num_experts_per_tok": 2, "moe_intermediate_size": 10}, 20),
        ({"top_k_experts": 3}, 3 * 96),
        ({"num_experts_per_tok": 2, "moe_intermediate_size": 10, "n_shared_experts": 2}, 40),
        ({"num_experts_per_tok": 2, "shared_expert_intermediate_size": 7}, 2 * 96 + 7),
        ({"num_experts_per_tok": None}, 96),
    ],
)
def test_a_token_passes_the_experts_that_are_chosen_and_those_that_all_share(
    config: dict[str, Any], intermediate: int
) -> None:
    assert shape(**config).intermediate == intermediate


def test_experts_and_embeddings_of_each_layer_are_counted_by_the_names_of_their_tensors() -> None:
    tensors = ("mlp.experts.0.up", 5), ("mlp.experts.1.up", 6), ("embed_tokens_per_layer", 7)
    found = shape(("rest", 100), *tensors)
    assert (found.parameters, found.expert_parameters, found.per_layer_embeddings) == (118, 11, 7)


def test_a_mixture_s_experts_are_three_matrices_each_in_each_layer_that_has_them() -> None:
    mixture = LLAMA | {"num_experts": 4, "moe_intermediate_size": 10}
    assert expert_numbers(mixture) == 4 * (3 * 64 * 10) * 2
    assert expert_numbers({"text_config": mixture | {"first_k_dense_replace": 1}}) == 4 * 1920
    assert expert_numbers(LLAMA | {"num_local_experts": 4}) == 4 * (3 * 64 * 96) * 2
    with pytest.raises(KeyError):
        expert_numbers(LLAMA)


def test_a_safetensors_file_s_header_tells_how_many_numbers_each_tensor_has() -> None:
    entries = {"__metadata__": {"format": "pt"}, "a": {"shape": [2, 3]}, "b": {"shape": []}}
    header = json.dumps(entries).encode()
    beginning = len(header).to_bytes(8, "little") + header + b"\xff\xff"
    assert header_bytes(beginning) == 8 + len(header)
    assert read_header(beginning) == [("a", 6), ("b", 1)]
    with pytest.raises(ValueError, match="line 1"):
        read_header(beginning[:20])


def test_what_is_quantised_are_the_linear_layers_without_the_output_head() -> None:
    found = shape(("a", 20_000), ("mlp.experts.0", 1000), ("embed_tokens_per_layer", 200))
    assert found.linear_parameters == 21_200 - 2 * 6400 - 1000 - 200
    assert found.linear_share == found.linear_parameters / 21_200
    tied = found.model_copy(update={"tied_embeddings": True})
    assert tied.linear_parameters == found.linear_parameters + 6400
    assert shape(("a", 100)).linear_parameters == 0
