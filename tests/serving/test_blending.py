"""Adapters as one: a weighted sum by name, exact, and refused where it would mean nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from serving.model.adapters import load_adapters
from serving.model.blending import blend
from serving.model.loading import load_base_model
from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.serving import AdapterSource
from tests.serving import toy
from tests.serving.hot import admin, load, names, root, text
from tests.serving.running import Running

IDS = torch.tensor([[5, 9, 30, 7]])


@pytest.fixture(scope="module")
def parts(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of other ranks that change other layers."""
    folder = tmp_path_factory.mktemp("parts")
    narrow = toy.make_adapter(folder / "narrow", toy_model, seed=3, rank=2)
    wide = toy.make_adapter(folder / "wide", toy_model, seed=4, rank=6, every_layer=True)
    return narrow, wide


@pytest.fixture
def blending(hot: Running, toy_adapters: tuple[Path, Path]) -> Running:
    """A hot server that has `first` and its twin, and `second` with another template."""
    shutil.copytree(toy_adapters[0], root(hot) / "twin")
    for name in ("first", "twin", "second"):
        assert load(hot, name, name).status_code == 200
    return hot


def changed(model: Path, *sources: AdapterSource) -> torch.Tensor:
    """The weight updates that adapters make, layer by layer, one behind the other."""
    adapted = load_adapters(load_base_model(model, dtype=torch.float32), sources, weights_dir=model)
    updates = []
    for _, layer in sorted(adapted.named_modules()):
        if hasattr(layer, "get_delta_weight") and hasattr(layer, "base_layer"):
            own = [layer.get_delta_weight(key) for key in layer.lora_A if key in layer.scaling]
            updates.append(sum(own, torch.zeros_like(layer.base_layer.weight)).flatten())
    return torch.cat(updates)


def test_a_blend_changes_each_layer_by_the_weighted_sum_of_its_parts(
    toy_model: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = [AdapterSource("narrow", parts[0], 0.75), AdapterSource("wide", parts[1], -0.5)]
    blend(sources, tmp_path / "both")
    assert json.loads((tmp_path / "both/adapter_config.json").read_text())["r"] == 2 + 6
    both = changed(toy_model, AdapterSource("both", tmp_path / "both"))
    torch.testing.assert_close(both, changed(toy_model, *sources), rtol=1e-5, atol=1e-6)
    assert both.abs().max() > 0.1


def test_an_adapter_s_own_scales_are_in_its_part(
    toy_model: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    scaled = tmp_path / "scaled"
    shutil.copytree(parts[1], scaled)
    config = json.loads((scaled / "adapter_config.json").read_text())
    config |= {"use_rslora": True, "alpha_pattern": {"q_proj": 3}}
    (scaled / "adapter_config.json").write_text(json.dumps(config))
    source = AdapterSource("scaled", scaled)
    blend([source], tmp_path / "alone")
    alone = changed(toy_model, AdapterSource("alone", tmp_path / "alone"))
    torch.testing.assert_close(alone, changed(toy_model, source), rtol=1e-5, atol=1e-6)


def test_ranks_that_are_too_many_together_are_refused_by_name(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    many = [AdapterSource("wide", parts[1])] * 200
    with pytest.raises(AdapterMismatch, match="their ranks are 1200 together"):
        blend(many, tmp_path / "both")


def test_a_blend_answers_by_its_name_and_halves_make_a_whole(blending: Running) -> None:
    told = admin(blending, "blend", name="both", weights={"first": 0.5, "twin": 0.5})
    assert told.status_code == 200, told.text
    assert "both" in names(blending)
    answer = text(blending.chat("the cat", model="both"))
    assert answer == text(blending.chat("the cat", model="first"))
    assert answer != text(blending.chat("the cat", model="toy"))


def test_what_takes_itself_away_is_the_base(blending: Running) -> None:
    admin(blending, "blend", name="none", weights={"first": 1, "twin": -1})
    answer = text(blending.chat("the cat", model="none"))
    assert answer == text(blending.chat("the cat", model="toy"))


@pytest.mark.parametrize(
    ("name", "weights", "status", "field", "why"),
    [
        ("both", {"first": 1, "second": 1}, 400, "weights", "different chat templates"),
        ("both", {"first": 1, "toy": 1}, 400, "weights", "the base model answers"),
        ("both", {"first": 1, "third": 1}, 404, "model", "model third was asked for"),
        ("first", {"twin": 1}, 400, "name", "the name is taken"),
        ("both", {"first": 5}, 400, "weights.first", "less than or equal to 4"),
        ("both", {}, 400, "weights", "at least 1"),
    ],
)
def test_what_would_mean_nothing_is_refused_and_changes_nothing(
    blending: Running, name: str, weights: dict[str, float], status: int, field: str, why: str
) -> None:
    before = names(blending)
    refused = admin(blending, "blend", name=name, weights=weights)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, field)
    assert why in refused.json()["error"]["message"]
    assert names(blending) == before


def test_a_name_that_the_base_answers_to_is_no_part(blending: Running) -> None:
    admin(blending, "promote", name="plain", version="toy")
    refused = admin(blending, "blend", name="both", weights={"plain": 1})
    assert refused.status_code == 400
    assert "plain was to be blended" in refused.json()["error"]["message"]


def test_a_part_whose_files_are_others_by_now_is_refused(blending: Running) -> None:
    weights = "adapter_model.safetensors"
    shutil.copy(root(blending) / "second" / weights, root(blending) / "first" / weights)
    refused = admin(blending, "blend", name="both", weights={"first": 1})
    assert "the files of first are others" in refused.json()["error"]["message"]
