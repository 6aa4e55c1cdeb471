"""The plan's line on what serves, with its flags and the reason."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import Check, Node, Plan
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tasks.settings import settings
from tests.builders import tuning_manifest

FOUND = Findings(provisioner="karpenter")
CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True)
CONFIG = """
vllm:
  max-model-len: 8192
  swap-space: 4
"""


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


def served(config: str | None = None, **annotations: str) -> Workspace:
    inference: dict[str, Any] = {"preset": {"name": "phi-4-mini-instruct"}}
    if config:
        inference["config"] = config
    named = {f"kaito.sh/{key.replace('_', '-')}": value for key, value in annotations.items()}
    manifest = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "served", "namespace": "team", "uid": "1", "annotations": named},
        "resource": {"instanceType": "Standard_NC24ads_A100_v4"},
        "inference": inference,
    }
    return parse_workspace(manifest, source="test")


def engine(plan: Plan) -> Check:
    return next(check for check in plan.checks if check.name == "engine")


def test_it_says_which_engine_serves_with_its_flags_and_why() -> None:
    told = engine(make_plan(served(performance_mode="throughput"), CLUSTER, FOUND))
    assert told.result == "ok"
    assert told.detail == (
        "vLLM, 1 GPU: --performance-mode throughput (a GPU serves, and vLLM has the architecture)"
    )


def test_settings_of_the_config_map_are_told_and_those_without_effect_too() -> None:
    world = replace(CLUSTER, config_maps={"mine": {"inference_config.yaml": CONFIG}})
    told = engine(make_plan(served("mine"), world, FOUND))
    assert told.result == "warn"
    assert "--max-model-len 8192" in told.detail
    assert "no effect here: vllm.swap-space" in told.detail


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("vllm: {port: 1}", "InvalidWorkspace"),
        ("vllm: {max-model-len: 999999}", "InvalidWorkspace"),
    ],
)
def test_what_cannot_be_honoured_refuses_the_workspace(text: str, reason: str) -> None:
    world = replace(CLUSTER, config_maps={"mine": {"inference_config.yaml": text}})
    told = engine(make_plan(served("mine"), world, FOUND))
    assert (told.result, told.reason) == ("fail", reason)


def test_a_config_map_that_is_not_there_is_told() -> None:
    told = engine(make_plan(served("mine"), CLUSTER, FOUND))
    assert (told.result, told.reason) == ("fail", "ConfigMapNotFound")
    assert "inference.config names ConfigMap 'mine'" in told.detail


def tuned(lora: str, **annotations: str) -> Check:
    manifest = tuning_manifest()
    manifest["metadata"] |= {"uid": "1", "annotations": annotations}
    manifest["resource"] = {"instanceType": "Standard_NC24ads_A100_v4"}
    manifest["tuning"]["config"] = "mine"
    text = f"training_config: {{LoraConfig: {{{lora}}}}}"
    world = replace(CLUSTER, config_maps={"mine": {"training_config.yaml": text}})
    return engine(make_plan(parse_workspace(manifest, source="test"), world, FOUND))


@pytest.mark.parametrize("lora", ["use_dora: true", "r: 1024", "bias: all"])
def test_an_adapter_that_vllm_would_refuse_is_refused_before_it_is_tuned(lora: str) -> None:
    told = tuned(lora)
    assert (told.result, told.reason) == ("fail", "InvalidTuningConfig")
    assert "kaito.sh/runtime: transformers" in told.fix
    assert tuned(lora, **{"kaito.sh/runtime": "transformers"}).result == "ok"
    assert tuned("r: 16").result == "ok"


def test_on_one_machine_our_own_engine_serves() -> None:
    world = replace(CLUSTER, is_cluster=False, node=Node(name="here", cores=2, memory_gib=24))
    told = engine(make_plan(served(), world, Findings()))
    assert told.detail.startswith("our own engine (vLLM is not on this machine")
