"""What vLLM can do with an adapter, said before it is given one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from serving.model.layers import layers_in
from serving.vllm_engine.adapters import (
    check_for_vllm,
    folder_for_vllm,
    name_in_vllm,
    needed_rank,
)
from serving.weights.marker import read_marker
from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.serving import AdapterSource
from tests.serving import toy


@pytest.fixture
def adapter(toy_model: Path, tmp_path: Path) -> AdapterSource:
    return AdapterSource("mine", toy.make_adapter(tmp_path / "mine", toy_model))


def check(source: AdapterSource, weights: Path, *, max_rank: int = 16) -> None:
    marker = read_marker(weights)
    check_for_vllm(source, layers_in(weights), marker=marker, max_rank=max_rank)


def edit(source: AdapterSource, **fields: object) -> None:
    config = source.path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))


def test_plain_lora_is_taken(toy_model: Path, adapter: AdapterSource) -> None:
    check(adapter, toy_model)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"use_dora": True}, "use_dora, which vLLM does not compute"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save, which vLLM does not compute"),
        ({"init_lora_weights": "pissa"}, "a base that pissa has changed"),
        ({"base_model_name_or_path": "microsoft/phi-3"}, "made for microsoft/phi-3"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    toy_model: Path, adapter: AdapterSource, fields: dict[str, object], told: str
) -> None:
    edit(adapter, **fields)
    with pytest.raises(AdapterMismatch, match=told):
        check(adapter, toy_model)


def test_layers_are_compared_with_those_that_the_bases_files_tell(
    toy_model: Path, tmp_path: Path
) -> None:
    wide = toy.make_model(tmp_path / "wide", hidden=64)
    other = AdapterSource("other", toy.make_adapter(tmp_path / "other", wide))
    with pytest.raises(AdapterMismatch, match="the base model has 64"):
        check(other, toy_model)


def test_a_rank_beyond_the_room_there_is_is_refused(
    toy_model: Path, adapter: AdapterSource
) -> None:
    with pytest.raises(AdapterMismatch, match="its rank is 4, and the GPU's memory"):
        check(adapter, toy_model, max_rank=2)


def test_room_is_made_for_the_highest_rank_of_the_beginning(adapter: AdapterSource) -> None:
    assert needed_rank([adapter], least=16) == 16
    edit(adapter, rank_pattern={"q_proj": 48})
    assert needed_rank([adapter], least=16) == 64
    edit(adapter, r=1024)
    with pytest.raises(AdapterMismatch, match="its rank is 1024"):
        needed_rank([adapter], least=16)


def test_a_strength_is_written_into_the_weights(adapter: AdapterSource, tmp_path: Path) -> None:
    half = AdapterSource("half", adapter.path, strength=0.5)
    folder = folder_for_vllm(half, tmp_path)
    assert folder_for_vllm(adapter, tmp_path) == adapter.path
    before, after = (
        load_file(each / "adapter_model.safetensors") for each in (adapter.path, folder)
    )
    key = next(each.removesuffix(".lora_A.weight") for each in before if "lora_A" in each)
    scales = [
        json.loads((each / "adapter_config.json").read_text()) for each in (adapter.path, folder)
    ]
    changes = [
        told["lora_alpha"] / told["r"] * own[f"{key}.lora_B.weight"] @ own[f"{key}.lora_A.weight"]
        for told, own in zip(scales, (before, after), strict=True)
    ]
    torch.testing.assert_close(changes[1], 0.5 * changes[0])


def test_other_weights_and_other_strengths_have_other_names(adapter: AdapterSource) -> None:
    half = AdapterSource("mine", adapter.path, strength=0.5)
    named = {name_in_vllm(adapter, "a"), name_in_vllm(adapter, "b"), name_in_vllm(half, "a")}
    assert len(named) == 3
