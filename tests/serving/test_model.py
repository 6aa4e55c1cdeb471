"""Models and adapters in memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.model.adapters import load_adapters
from serving.model.loading import load_base_model
from serving.model.tokenizer import load_tokenizer
from tasks.contract.errors import AdapterMismatch, ModelNotSupported, WeightsUnavailable
from tasks.contract.programs.serving import AdapterSource
from tests.serving import toy


def load(folder: Path, *sources: AdapterSource) -> object:
    model = load_base_model(folder, dtype=torch.float32, device="cpu")
    return load_adapters(model, sources, weights_dir=folder)


def test_an_adapter_of_another_base_is_refused(toy_model: Path, tmp_path: Path) -> None:
    path = toy.make_adapter(tmp_path / "other", toy_model, base="microsoft/phi-3")
    told = "adapter mine was made for microsoft/phi-3; the weights here are toy/llama"
    with pytest.raises(AdapterMismatch, match=told):
        load(toy_model, AdapterSource("mine", path))


def test_an_adapter_of_another_revision_is_refused(toy_model: Path, tmp_path: Path) -> None:
    path = toy.make_adapter(tmp_path / "old", toy_model)
    config = path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"revision": "abc"}))
    pinned = toy.make_model(tmp_path / "pinned")
    marker = json.loads((pinned / "kaitoflow.json").read_text())
    (pinned / "kaitoflow.json").write_text(json.dumps(marker | {"revision": "def"}))
    with pytest.raises(AdapterMismatch, match="at revision abc; the weights here are revision def"):
        load(pinned, AdapterSource("mine", path))


def test_an_adapter_of_another_width_is_refused(toy_model: Path, tmp_path: Path) -> None:
    wide = toy.make_model(tmp_path / "wide", hidden=64)
    path = toy.make_adapter(tmp_path / "adapter", wide)
    with pytest.raises(AdapterMismatch, match=r"expects .* the base model has"):
        load(toy_model, AdapterSource("mine", path))


def test_a_base_named_by_a_path_says_nothing(toy_model: Path, tmp_path: Path) -> None:
    path = toy.make_adapter(tmp_path / "kaito", toy_model, base="/workspace/tfs/weights")
    assert load(toy_model, AdapterSource("mine", path))


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_incomplete_adapter_is_refused(toy_model: Path, tmp_path: Path, missing: str) -> None:
    path = toy.make_adapter(tmp_path / "adapter", toy_model)
    (path / missing).unlink()
    with pytest.raises(AdapterMismatch, match=missing):
        load(toy_model, AdapterSource("mine", path))


def test_strength_scales_an_adapter_exactly(toy_model: Path, tmp_path: Path) -> None:
    path = toy.make_adapter(tmp_path / "adapter", toy_model)
    half = load(toy_model, AdapterSource("half", path, 0.5))
    layer = half.base_model.model.model.layers[0].self_attn.q_proj  # type: ignore[attr-defined]
    assert layer.scaling["adapter-half"] == 0.5 * 16 / 4


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="transformers cannot load it"):
        load_base_model(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize("part", ["", "text_config"])
@pytest.mark.parametrize("kind", ["fp8", "mxfp4", "awq", "gptq"])
def test_weights_that_are_stored_quantised_are_refused_and_not_served_as_noise(
    tmp_path: Path, kind: str, part: str
) -> None:
    folder = toy.make_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    stored = {"quantization_config": {"quant_method": kind}}
    (folder / "config.json").write_text(json.dumps(config | ({part: stored} if part else stored)))
    with pytest.raises(ModelNotSupported, match=f"stored as {kind}, .* 16-bit weights"):
        load_base_model(folder, dtype=torch.float32, device="cpu")


def test_weights_from_the_package_stop_by_themselves(smollm2_weights: Path) -> None:
    tokenizer: Any = load_tokenizer(smollm2_weights)
    model: Any = load_base_model(smollm2_weights, dtype=torch.float32, device="cpu")
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=30, do_sample=False)[0]
    answer = tokenizer.decode(said[asked["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


def test_the_packages_tokenizer_is_the_models_own(smollm2_weights: Path) -> None:
    tokenizer = load_tokenizer(smollm2_weights)
    text = "In 2024 we had 345 Häuser: it's £30!\n\n\tdef f(x)  日本"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("2024").input_ids == [34, 32, 34, 36]  # digit by digit
    assert tokenizer("<|im_end|>").input_ids == [2] == [tokenizer.eos_token_id]
    assert tokenizer.unk_token == "<|endoftext|>"
