"""The model catalogue answers by name, by Hugging Face id, and refuses with near names."""

import pytest

from tasks.contract.errors import UnknownPreset
from tasks.presets import catalogue, find_preset


def test_a_preset_is_found_in_any_case() -> None:
    assert find_preset("SmolLM2-135M-Instruct").model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_catalogued_model_is_found_by_its_hugging_face_id() -> None:
    assert find_preset("microsoft/phi-4").name == "phi-4"


def test_any_other_hugging_face_id_is_taken_as_it_is() -> None:
    assert find_preset("acme/tiny").model == "acme/tiny"


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownPreset, match="did you mean phi-3-mini-4k-instruct"):
        find_preset("phi-3-mini-4k-instrct")


def test_kaitos_tuning_presets_are_all_there() -> None:
    kaito = {"phi-4", "phi-4-mini-instruct", "phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct"}
    kaito |= {"phi-3-medium-4k-instruct", "phi-3.5-mini-instruct", "mistral-7b"}
    assert kaito <= set(catalogue())


def test_parameters_follow_from_the_published_size() -> None:
    parameters = find_preset("phi-3-mini-4k-instruct").parameters
    assert parameters is not None
    assert parameters == pytest.approx(3.82e9, rel=0.01)
