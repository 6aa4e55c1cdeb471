"""Names of layers are checked against a model's modules, wherever these were read from."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.modules import (
    Modules,
    check_other_names,
    check_targets,
    excluded,
    find_targets,
    reached,
)

LINEAR = tuple(f"model.text.layers.{n}.{name}" for n in (0, 1) for name in ("q_proj", "out_proj"))
SEES = "model.vision.q_proj"
MODULES = Modules(
    model="Toy",
    model_type="toy",
    names=("model", "model.text", "lm_head", SEES, *LINEAR),
    linear=LINEAR,
    adaptable=("lm_head", SEES, *LINEAR),
    head="lm_head",
    text="model.text",
    layers=2,
)
Q_PROJ = r"model\.text\.layers\.\d\.q_proj"


def test_the_last_names_of_the_linear_layers_are_its_targets() -> None:
    assert find_targets(MODULES) == check_targets(MODULES, "all-linear") == ["out_proj", "q_proj"]


def test_what_mamba_s_kernels_read_past_the_layer_is_no_target() -> None:
    assert find_targets(replace(MODULES, model_type="mamba2")) == ["q_proj"]


def test_names_are_sorted_and_a_pattern_stays_what_it_is() -> None:
    assert check_targets(MODULES, ["q_proj", "out_proj"]) == ["out_proj", "q_proj"]
    assert check_targets(MODULES, Q_PROJ) == Q_PROJ


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            ["q_proj", "k_proj"],
            "target_modules names k_proj; Toy has no layer of that name; it has",
        ),
        (["proj"], "has no layer of that name; .*leave target_modules out"),
        (["q_proj", "lm_head"], "names the output head"),
        ("lm_head", "names the output head"),
        ("q_proj", "Toy has no layer whose whole name it fits"),
        (r"model\.text.*", "fits 'model.text' as well, which takes no adapter"),
        (r"(.*q_proj)?", "fits 'the whole model' as well"),
    ],
)
def test_targets_that_are_no_layers_of_the_model_are_refused(asked: Any, words: str) -> None:
    with pytest.raises(InvalidTuningConfig, match=words):
        check_targets(MODULES, asked)


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(InvalidTuningConfig, match="it has none in its blocks"):
        find_targets(replace(MODULES, linear=()))


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("modules_to_save", "lm_hed"),
        ("exclude_modules", "layers.7.q_proj"),
        ("rank_pattern", {"q_porj": 4}),
        ("alpha_pattern", {"proj": 4}),
    ],
)
def test_a_name_beside_the_targets_is_one_of_a_module(setting: str, name: Any) -> None:
    with pytest.raises(InvalidTuningConfig, match=rf"\.{setting} names .*; it has out_proj, q_pro"):
        check_other_names(MODULES, {setting: name})
    check_other_names(MODULES, {setting: "lm_head"})
    check_other_names(MODULES, {setting: {r"layers\.[01]\.q_proj": 4}})


@pytest.mark.parametrize("layers", [None, 0, 1, [0, 1]])
def test_the_numbers_of_layers_that_are_there_are_taken(layers: Any) -> None:
    check_other_names(MODULES, {"layers_to_transform": layers})


@pytest.mark.parametrize("layers", [2, [0, 2]])
def test_a_layer_beyond_the_last_is_refused(layers: Any) -> None:
    with pytest.raises(InvalidTuningConfig, match="names layer 2; Toy has 2, from 0 to 1"):
        check_other_names(MODULES, {"layers_to_transform": layers})


def test_a_pattern_reaches_whole_names_and_a_list_their_ends() -> None:
    assert reached(LINEAR, Q_PROJ) == [LINEAR[0], LINEAR[2]]
    assert reached(("q_proj", "a.q_proj", "a.xq_proj"), ["q_proj"]) == ["q_proj", "a.q_proj"]


@pytest.mark.parametrize("exclude", [None, ["out_proj"], "any.*"])
def test_what_sees_is_left_out_and_what_a_user_excludes_stays_so(exclude: Any) -> None:
    assert excluded(MODULES, Q_PROJ, exclude) == exclude
    pattern = excluded(MODULES, ["q_proj"], exclude)
    assert isinstance(pattern, str)
    assert reached((SEES, LINEAR[0]), pattern) == [SEES]
    out = [name for name in LINEAR if exclude == ["out_proj"] and name.endswith("out_proj")]
    assert reached(LINEAR, pattern) == out
