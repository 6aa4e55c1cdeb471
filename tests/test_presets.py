"""The model catalogue answers by name, by Hugging Face id, and refuses with near names."""

import pytest

from tasks.contract.errors import UnknownPreset
from tasks.presets import Preset, catalogue, find_preset


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


def test_a_model_named_by_its_id_is_called_by_the_id_s_last_part() -> None:
    preset = find_preset("Acme/Tiny-Chat")
    assert (preset.name, preset.model, preset.revision) == ("tiny-chat", "Acme/Tiny-Chat", "main")


def test_a_catalogued_model_is_found_by_its_id_in_any_case() -> None:
    assert find_preset("Microsoft/PHI-4").name == "phi-4"


@pytest.mark.parametrize("name", ["a/b/c", "a b/c", "/b", ""])
def test_what_is_neither_name_nor_id_is_refused(name: str) -> None:
    with pytest.raises(UnknownPreset, match="use a catalogue name or a Hugging Face id"):
        find_preset(name)


def test_a_size_in_two_bytes_a_parameter_says_how_many_there_are() -> None:
    assert Preset(name="a", model="o/a", size_gib=2).parameters == 2**30


def test_of_a_quantized_model_and_of_one_without_size_nothing_is_said() -> None:
    assert Preset(name="a", model="o/a", size_gib=2, quantized="mxfp4").parameters is None
    assert Preset(name="a", model="o/a").parameters is None


def test_a_shape_says_more_than_a_size() -> None:
    shaped = next(preset for preset in catalogue().values() if preset.shape)
    assert shaped.shape is not None
    assert shaped.model_copy(update={"size_gib": 1.0}).parameters == shaped.shape.parameters
