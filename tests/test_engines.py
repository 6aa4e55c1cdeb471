"""Which engine serves a Workspace, and how it is started."""

import json
from typing import Any

import pytest

from tasks.contract.errors import InvalidWorkspace, ModelNotSupported
from tasks.contract.inference_config import InferenceConfig, parse_inference_config
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.engines import Serving, choose_serving, concurrency
from tasks.presets import find_preset
from tests.builders import tuning_manifest

NOTHING = InferenceConfig()


def served(
    preset: str = "phi-4-mini-instruct", *, config: str | None = None, **annotations: str
) -> Workspace:
    inference: dict[str, Any] = {"preset": {"name": preset}}
    if config:
        inference["config"] = config
    metadata = {
        "name": "served",
        "annotations": {
            f"kaito.sh/{name.replace('_', '-')}": value for name, value in annotations.items()
        },
    }
    manifest = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": metadata,
        "resource": {"instanceType": "Standard_NC24ads_A100_v4"},
        "inference": inference,
    }
    return parse_workspace(manifest, source="test")


def chosen(
    workspace: Workspace,
    config: InferenceConfig = NOTHING,
    *,
    gpus: int = 1,
    gpus_there: int | None = None,
    has_vllm: bool = True,
) -> Serving:
    assert workspace.preset
    return choose_serving(
        workspace,
        find_preset(workspace.preset.name),
        config,
        gpus=gpus,
        gpus_there=gpus if gpus_there is None else gpus_there,
        on_gpu=gpus > 0,
        has_vllm=has_vllm,
    )


def test_a_gpu_serves_by_vllm_and_a_cpu_by_our_own_engine() -> None:
    assert (chosen(served()).engine, chosen(served()).why) == (
        "vllm",
        "a GPU serves, and vLLM has the architecture",
    )
    assert (chosen(served(), gpus=0).engine, chosen(served(), gpus=0).why) == (
        "transformers",
        "the CPU serves",
    )


def test_the_word_of_a_person_goes_before_both() -> None:
    assert chosen(served(runtime="transformers")).engine == "transformers"
    with pytest.raises(ModelNotSupported, match="the CPU serves"):
        chosen(served(runtime="vllm"), gpus=0)


def test_one_machine_has_no_vllm_until_a_person_names_it() -> None:
    assert chosen(served(), has_vllm=False).engine == "transformers"
    with pytest.raises(ModelNotSupported, match="KAITOFLOW_VLLM_PROGRAM"):
        chosen(served(runtime="vllm"), has_vllm=False)


def test_a_model_that_our_engine_cannot_serve_is_vllms() -> None:
    assert chosen(served("qwen3.5-9b")).engine == "vllm"
    with pytest.raises(ModelNotSupported, match="linear attention"):
        chosen(served("qwen3.5-9b", runtime="transformers"))
    with pytest.raises(ModelNotSupported, match="a machine with a GPU"):
        chosen(served("qwen3.5-9b"), gpus=0)


def test_a_model_that_vllm_has_no_adapters_for_is_served_without_them() -> None:
    assert chosen(served()).max_loras == 4
    no_lora = find_preset("phi-4-mini-instruct").model_copy(update={"adapts": {"vllm": "no-lora"}})

    def engine_of(workspace: Workspace) -> Serving:
        return choose_serving(
            workspace, no_lora, NOTHING, gpus=1, gpus_there=1, on_gpu=True, has_vllm=True
        )

    assert (engine_of(served()).engine, engine_of(served()).max_loras) == ("vllm", 0)
    tuned = parse_workspace(tuning_manifest(), source="test")
    assert engine_of(tuned).engine == "transformers"


def test_a_model_that_is_in_no_catalogue_is_tried_by_vllm() -> None:
    assert chosen(served("acme/tiny")).engine == "vllm"


def test_the_gpus_of_the_pod_share_each_layer_if_its_heads_can_be_shared() -> None:
    four = chosen(served(), gpus=4)
    assert (four.gpus, four.tensor_parallel) == (4, 4)
    nine_heads = chosen(served("smollm2-135m-instruct"), gpus=4)
    assert nine_heads.tensor_parallel == 3


def test_what_the_config_map_says_of_gpus_is_what_the_pod_takes() -> None:
    config = parse_inference_config("vllm: {tensor-parallel-size: 2, pipeline-parallel-size: 2}")
    two_by_two = chosen(served(), config, gpus=1, gpus_there=4)
    assert (two_by_two.gpus, two_by_two.tensor_parallel) == (4, 2)
    assert two_by_two.flags == {"pipeline-parallel-size": "2"}
    with pytest.raises(InvalidWorkspace, match="over 4 GPUs; the node has 2"):
        chosen(served(), config, gpus=1, gpus_there=2)


def test_words_of_kaito_s_are_flags_of_vllm() -> None:
    workspace = served(performance_mode="throughput", enable_speculative_decoding="true")
    flags = chosen(workspace).flags
    assert flags["performance-mode"] == "throughput"
    guess = json.loads(flags["speculative-config"] or "")
    assert (guess["method"], guess["num_speculative_tokens"]) == ("ngram", 5)
    ahead = chosen(served("qwen3.5-9b", enable_speculative_decoding="true")).flags
    assert json.loads(ahead["speculative-config"] or "")["method"] == "mtp"
    assert not chosen(served(enable_speculative_decoding="false")).flags


def test_a_persons_own_flags_go_before_those_that_a_word_stands_for() -> None:
    text = "vllm: {speculative-config: {method: ngram}, performance-mode: interactivity}"
    workspace = served(enable_speculative_decoding="true", performance_mode="throughput")
    flags = chosen(workspace, parse_inference_config(text)).flags
    assert json.loads(flags["speculative-config"] or "") == {"method": "ngram"}
    assert flags["performance-mode"] == "interactivity"


@pytest.mark.parametrize("asked", ["131072", "auto", "-1"])
def test_a_context_that_the_model_has_is_taken(asked: str) -> None:
    config = parse_inference_config(f"vllm: {{max-model-len: {asked}}}")
    assert chosen(served(), config).flags == {"max-model-len": asked}


def test_a_context_that_the_model_has_not_is_refused() -> None:
    config = parse_inference_config("vllm: {max-model-len: 131073}")
    with pytest.raises(InvalidWorkspace, match="has a context of 131072"):
        chosen(served(), config)


def test_what_is_asked_of_vllm_where_another_serves_is_told() -> None:
    workspace = served(
        runtime="transformers",
        performance_mode="balanced",
        enable_speculative_decoding="true",
        config="mine",
    )
    told = " ".join(chosen(workspace).notes)
    for word in ("performance-mode", "enable-speculative-decoding", "inference.config"):
        assert word in told


def test_vllm_works_at_more_at_once_unless_a_person_says() -> None:
    assert (concurrency("transformers", None), concurrency("vllm", None)) == (16, 256)
    assert concurrency("vllm", 3) == 3


def test_flags_are_told_as_a_command_line_has_them() -> None:
    config = parse_inference_config("vllm: {enforce-eager: true, max-model-len: 4096}")
    assert chosen(served(), config).flags_told == "--enforce-eager --max-model-len 4096"
