"""An adapter in its base model's weights: the same answers without it, or no folder at all."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from serving.merging import main
from serving.model.adapters import load_adapters
from serving.model.loading import load_base_model
from tasks.contract.errors import AdapterMismatch, FolderTaken
from tasks.contract.programs.serving import AdapterSource, MergeConfig
from tests.serving import toy

IDS = torch.tensor([[5, 9, 30, 7]])


def merging(model: Path, adapter: AdapterSource, folder: Path) -> MergeConfig:
    return MergeConfig(
        weights_dir=model,
        base_model="toy/llama",
        adapter=adapter,
        target_dir=folder,
        image="r.example.com/first:1",
    )


@torch.no_grad()
def scores(model: Path, *adapters: AdapterSource) -> torch.Tensor:
    base = load_base_model(model, dtype=torch.float32, device="cpu")
    scored: torch.Tensor = load_adapters(base, adapters, weights_dir=model)(input_ids=IDS).logits
    return scored


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_a_merged_model_scores_as_the_base_with_its_adapter(
    toy_model: Path, toy_adapters: tuple[Path, Path], tmp_path: Path, strength: float
) -> None:
    adapter = AdapterSource("first", toy_adapters[0], strength)
    merged = main(merging(toy_model, adapter, tmp_path / "merged")).target_dir
    torch.testing.assert_close(scores(merged), scores(toy_model, adapter), rtol=1e-4, atol=1e-4)
    assert (scores(merged) - scores(toy_model)).abs().max() > 0.1


def test_a_merged_model_needs_nothing_beside_it(
    toy_model: Path, toy_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = AdapterSource("first", toy_adapters[0], 0.5)
    told = main(merging(toy_model, adapter, tmp_path / "merged"))
    files = {file.name for file in told.target_dir.iterdir()}
    assert "adapter_config.json" not in files
    assert "kaitoflow.json" not in files
    assert told.bytes == (told.target_dir / "model.safetensors").stat().st_size
    text = "the cat sat"
    own, base = (AutoTokenizer.from_pretrained(each) for each in (told.target_dir, toy_model))
    assert own(text).input_ids == base(text).input_ids
    assert own.chat_template == base.chat_template
    card = (told.target_dir / "README.md").read_text()
    assert "base_model: toy/llama" in card
    assert "`r.example.com/first:1` in its weights, at 0.5 of its strength" in card


def test_what_is_there_already_is_left_alone(
    toy_model: Path, toy_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(FolderTaken, match="remove it"):
        main(merging(toy_model, AdapterSource("first", toy_adapters[0]), tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "keep me"


def test_an_adapter_of_another_model_leaves_no_folder(toy_model: Path, tmp_path: Path) -> None:
    wide = toy.make_model(tmp_path / "wide", hidden=64)
    foreign = toy.make_adapter(tmp_path / "foreign", wide, seed=1)
    shutil.rmtree(wide)
    work = tmp_path / "work"
    with pytest.raises(AdapterMismatch):
        main(merging(toy_model, AdapterSource("foreign", foreign), work / "merged"))
    assert not list(work.iterdir())
