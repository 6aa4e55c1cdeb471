"""What a plan says of the base model and of the parameters, and which sizes it goes by."""

from dataclasses import replace

import pytest

from tasks.contract.artifacts import Check
from tasks.contract.errors import InvalidTuningConfig, ModelNotSupported
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.findings import Findings
from tasks.plan.model import (
    base_model,
    config_or_none,
    parameters,
    preset_or_none,
)
from tasks.platform.base import World
from tasks.presets import find_preset
from tests.builders import tuning_manifest, tuning_workspace

HERE = World(config_maps={}, has_secret=lambda _name: True)
CLUSTER = replace(HERE, is_cluster=True)
GATED = "llama-3.1-8b-instruct"


def served(name: str, *, secret: str | None = None) -> Workspace:
    preset = {"name": name, "presetOptions": {"modelAccessSecret": secret}}
    manifest = {"metadata": {"name": "s"}, "inference": {"preset": preset}}
    return parse_workspace(manifest, source="test")


def own_pods() -> Workspace:
    manifest = {"metadata": {"name": "s"}, "inference": {"template": {"spec": {}}}}
    return parse_workspace(manifest, source="test")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "smollm2-135m-instruct",
            "HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f77366, 135M parameters, licence apache-2.0",
        ),
        (
            "phi-4-mini-instruct",
            "microsoft/Phi-4-mini-instruct@c0fb9e74abda, 3,836M parameters, licence mit",
        ),
        ("acme/tiny", "acme/tiny@main"),
    ],
)
def test_a_model_is_told_with_the_size_and_the_licence_that_are_known(name: str, told: str) -> None:
    assert base_model(served(name), CLUSTER) == told


def test_a_pod_of_one_s_own_has_no_base_model() -> None:
    assert base_model(own_pods(), CLUSTER) == "a pod of your own image (inference.template)"
    assert preset_or_none(own_pods()) is None
    assert config_or_none(own_pods(), CLUSTER) is None


def tuned(name: str, method: str, **annotations: str) -> Workspace:
    manifest = tuning_manifest(preset={"name": name}, method=method)
    manifest["metadata"]["annotations"] = annotations
    return parse_workspace(manifest, source="test")


def ours(workspace: Workspace) -> Workspace:
    """The same, to be served by our own engine."""
    annotations = {**workspace.metadata.annotations, "kaito.sh/runtime": "transformers"}
    metadata = workspace.metadata.model_copy(update={"annotations": annotations})
    return workspace.model_copy(update={"metadata": metadata})


HYBRID, STORED = "qwen3.5-9b", "qwen3-8b-awq"
NOT_SERVED = 'kaito.sh/serve: "false"'


@pytest.mark.parametrize(
    ("workspace", "use", "fix"),
    [
        (ours(served(HYBRID)), "served", "choose a model that can be, such as granite-4.1-8b ("),
        (
            ours(tuned(HYBRID, "qlora")),
            "served",
            f"choose a model that can be, such as granite-4.1-8b, or annotate {NOT_SERVED} (",
        ),
        (tuned(STORED, "lora"), "tuned by lora", "choose a model that can be, such as phi-"),
        (tuned(STORED, "qlora"), "tuned by qlora", "choose a model that can be, such as phi-"),
        (ours(served(STORED)), "served", "choose a model that can be, such as phi-"),
    ],
)
def test_a_model_that_cannot_do_it_is_refused_with_one_that_can(
    workspace: Workspace, use: str, fix: str
) -> None:
    with pytest.raises(ModelNotSupported) as refused:
        base_model(workspace, CLUSTER)
    assert refused.value.asked.endswith(f" is to be {use}")
    assert refused.value.fix.startswith(fix)


@pytest.mark.parametrize("name", [HYBRID, STORED])
def test_what_our_own_engine_cannot_serve_is_vllms_on_a_cluster(name: str) -> None:
    assert base_model(served(name), CLUSTER)
    with pytest.raises(ModelNotSupported, match="is to be served"):
        base_model(served(name), replace(CLUSTER, is_cluster=False))


def test_a_model_that_is_tuned_and_not_served_needs_no_server() -> None:
    annotated = tuned(HYBRID, "qlora", **{"kaito.sh/serve": "false"})
    assert str(base_model(annotated, CLUSTER)).startswith("Qwen/Qwen3.5-9B@c20223623576")


def test_an_unknown_model_is_none() -> None:
    assert preset_or_none(served("no-such-model")) is None
    assert preset_or_none(served(GATED)) == find_preset(GATED)


def gated(workspace: Workspace, world: World) -> Check:
    check = base_model(workspace, world)
    assert isinstance(check, Check)
    return check


def test_on_a_cluster_a_gated_model_asks_for_a_secret_with_a_token() -> None:
    check = gated(served(GATED), CLUSTER)
    assert (check.name, check.result) == ("base model", "warn")
    assert check.detail.endswith(", gated")
    assert check.fix == (
        "accept its licence at https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct and name a "
        "Secret with HF_TOKEN in presetOptions.modelAccessSecret"
    )
    assert isinstance(base_model(served(GATED, secret="hub"), CLUSTER), str)


def test_here_a_gated_model_asks_for_the_environment_s_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert gated(served(GATED, secret="hub"), HERE).fix.endswith(" and set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert isinstance(base_model(served(GATED), HERE), str)


def test_the_parameters_are_told_in_one_line_with_where_they_come_from() -> None:
    assert parameters(tuning_workspace(), HERE, Findings()) == (
        "defaults: qlora, 4-bit weights, rank 8, learning rate 0.0002, 1 epoch(s), max_length 1024"
    )
    text = "training_config: {LoraConfig: {r: 16}}"
    world = replace(HERE, config_maps={"settings": {"training_config.yaml": text}})
    told = parameters(tuning_workspace(config="settings", method="lora"), world, Findings())
    assert told.startswith("ConfigMap settings: lora, full weights, rank 16, ")


def test_settings_that_cannot_be_used_are_none() -> None:
    assert config_or_none(tuning_workspace(config="not-there"), HERE) is None
    config = config_or_none(tuning_workspace(), HERE)
    assert config
    assert config.method == "qlora"


def test_a_chat_template_that_was_tried_in_vain_is_refused() -> None:
    error = InvalidTuningConfig("the template was tried", "it does not end", "correct it")
    with pytest.raises(InvalidTuningConfig, match="it does not end"):
        parameters(tuning_workspace(), HERE, Findings(chat_template=error))


def judged(preset: str, lora: str) -> str:
    text = f"training_config: {{LoraConfig: {lora}}}"
    world = replace(HERE, config_maps={"settings": {"training_config.yaml": text}})
    return str(
        parameters(tuning_workspace(config="settings", preset={"name": preset}), world, Findings())
    )


@pytest.mark.parametrize(
    ("preset", "lora", "told"),
    [
        ("phi-4-mini-instruct", "{target_modules: [q_proj]}", "qkv_proj"),
        ("smollm2-135m-instruct", "{layers_to_transform: [30]}", "has 30, from 0 to 29"),
        ("gemma-3-4b-instruct", "{modules_to_save: [vision_towr]}", "modules_to_save names"),
        ("qwen3.5-9b", "{target_modules: [lm_head]}", "names the output head"),
        ("llama-3.1-8b-instruct", "{target_modules: q_proj}", "a pattern for whole names"),
    ],
)
def test_a_module_that_the_model_lacks_is_refused_without_its_weights(
    preset: str, lora: str, told: str
) -> None:
    with pytest.raises(InvalidTuningConfig, match=told):
        judged(preset, lora)


@pytest.mark.parametrize(
    ("preset", "lora"),
    [
        ("phi-4-mini-instruct", "{target_modules: [qkv_proj], layers_to_transform: [0, 31]}"),
        ("gemma-3-4b-instruct", "{exclude_modules: [vision_tower]}"),
        ("acme/tiny", "{target_modules: [anything]}"),
    ],
)
def test_modules_that_the_model_has_or_that_nobody_knows_of_pass(preset: str, lora: str) -> None:
    assert judged(preset, lora).startswith("ConfigMap settings: qlora")
