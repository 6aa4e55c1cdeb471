"""A plan tells beforehand what would go wrong, each with the fix, and makes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.artifacts import Check, Node
from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.errors import (
    DownloadFailed,
    KaitoflowError,
    KubernetesRefused,
    KubernetesUnavailable,
    RegistryUnavailable,
)
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.data import with_absolute_files
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tests.builders import tuning_manifest, tuning_workspace

NODE = Node(name="here", cores=2, memory_gib=16.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(node=NODE, config_maps={}, has_secret=lambda _name: True, home=tmp_path / "home")


def checked(workspace: Workspace, world: World, name: str) -> Check:
    plan = make_plan(workspace, world)
    return next(check for check in plan.checks if check.name == name)


def test_the_quick_start_is_accepted_with_memory_and_time(world: World, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("x" * 40_000)
    plan = make_plan(tuning_workspace(input={"urls": [data.as_uri()]}), world)
    assert plan.refused == []
    assert plan.memory_gib is not None
    assert 1 < plan.memory_gib < 8
    assert plan.seconds is not None
    assert plan.seconds[0] < plan.seconds[1]


def test_planning_makes_nothing(world: World) -> None:
    make_plan(tuning_workspace(), world)
    assert world.home is not None
    assert not world.home.exists()


@pytest.mark.parametrize(
    ("changes", "check", "reason", "words"),
    [
        ({"preset": {"name": "phi-3-mini"}}, "base model", "UnknownPreset", "did you mean"),
        (
            {"config": "settings"},
            "parameters",
            "ConfigMapNotFound",
            "put it into the Workspace's file",
        ),
        ({"input": {"image": "r/d:1"}}, "dataset", "InvalidWorkspace", "tuning.input.urls"),
        (
            {"input": {"urls": ["file:///no/such.parquet"]}},
            "dataset",
            "DatasetUnreachable",
            "correct the path",
        ),
        (
            {"output": {"image": "r.io/Team/Adapter:1", "imagePushSecret": "s"}},
            "image",
            "ImageReferenceInvalid",
            "r.io/team/adapter:1",
        ),
        (
            {"output": {"image": "ACR_REPO_HERE.azurecr.io/a:1", "imagePushSecret": "s"}},
            "image",
            "ImageReferenceInvalid",
            "put your registry",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_fix(
    world: World, changes: dict[str, Any], check: str, reason: str, words: str
) -> None:
    failed = checked(tuning_workspace(**changes), world, check)
    assert (failed.result, failed.reason) == ("fail", reason)
    assert words in failed.fix


def test_an_unusable_parameter_is_refused_by_name(world: World) -> None:
    text = "training_config: {LoraConfig: {rr: 8}}"
    world = replace(world, config_maps={"settings": {"training_config.yaml": text}})
    failed = checked(tuning_workspace(config="settings"), world, "parameters")
    assert failed.reason == "InvalidTuningConfig"
    assert "rr" in failed.detail + failed.fix


def test_a_model_that_does_not_fit_is_refused_with_figures(world: World) -> None:
    small = replace(world, node=NODE.model_copy(update={"memory_gib": 2.0}))
    failed = checked(tuning_workspace(preset={"name": "phi-4"}), small, "memory")
    assert failed.reason == "ModelDoesNotFit"
    assert "of 2.0 GiB free" in failed.detail


def test_pushing_without_a_secret_is_refused(world: World) -> None:
    world = replace(world, push=True, has_secret=lambda _name: False)
    failed = checked(tuning_workspace(), world, "secrets")
    assert failed.reason == "SecretNotFound"
    assert "docker login" in failed.fix


def test_a_busy_port_is_refused(world: World) -> None:
    world = replace(world, port=5000, port_is_free=lambda _port: False)
    failed = checked(tuning_workspace(), world, "port")
    assert (failed.reason, "--port" in failed.fix) == ("PortInUse", True)


def test_a_pod_template_is_left_to_a_cluster(world: World) -> None:
    manifest = {"metadata": {"name": "t"}, "inference": {"template": {"spec": {}}}}
    failed = checked(parse_workspace(manifest, source="t"), world, "base model")
    assert "apply it to a cluster" in failed.fix


def test_a_gated_model_asks_for_its_licence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    workspace = tuning_workspace(preset={"name": "llama-3.1-8b-instruct"})
    warned = checked(workspace, world, "base model")
    assert warned.result == "warn"
    assert "accept its licence at https://huggingface.co/meta-llama" in warned.fix


def test_a_relative_file_counts_from_the_workspaces_folder(tmp_path: Path) -> None:
    workspace = with_absolute_files(
        tuning_workspace(input={"urls": ["file:../data.parquet"]}), tmp_path / "examples"
    )
    assert workspace.tuning is not None
    assert workspace.tuning.input.urls == [(tmp_path / "data.parquet").as_uri()]


@pytest.mark.parametrize(
    ("start", "found"),
    [
        ("./adapter", "{folder}/adapter"),
        ("../adapter", "{above}/adapter"),
        ("/adapter", "/adapter"),
        ("registry.example.com/adapters/a:1", "registry.example.com/adapters/a:1"),
        ("serving", "serving"),
    ],
)
def test_a_relative_folder_to_go_on_from_counts_from_there_too(
    start: str, found: str, tmp_path: Path
) -> None:
    asked = tuning_workspace()
    asked.metadata.annotations[CONTINUE_ANNOTATION] = start
    folder = tmp_path / "examples"
    told = with_absolute_files(asked, folder).metadata.annotations[CONTINUE_ANNOTATION]
    assert told == found.format(folder=folder, above=tmp_path)


def own_pods(**resource: Any) -> Workspace:
    manifest = {"metadata": {"name": "t"}, "inference": {"template": {"spec": {}}}}
    return parse_workspace(manifest | {"resource": resource}, source="t")


CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True)
NOBODY = DownloadFailed("x was asked", "there was no answer", "try again")


def lines(workspace: Workspace, found: Findings) -> list[str]:
    return [check.name for check in make_plan(workspace, CLUSTER, found).checks]


def test_nodes_are_told_where_it_is_known_what_is_to_run_on_them() -> None:
    found = Findings(nodes=(), provisioner="byo")
    assert "nodes" in lines(own_pods(), found)
    assert "nodes" in lines(tuning_workspace(), found)
    assert "nodes" not in lines(tuning_workspace(preset={"name": "no-such-model"}), found)


def test_what_a_cluster_s_plan_did_not_look_at_is_told() -> None:
    found = Findings(dataset=NOBODY, provisioner="karpenter")
    assert make_plan(tuning_workspace(), CLUSTER, found).unchecked == [
        "the dataset's address (x was asked; there was no answer)",
        "the cloud's quota (KAITOFLOW_PROVISIONER=aks, and whose it is)",
        "what the cluster would refuse (when it is applied)",
        "the dataset's rows (before training)",
    ]


def test_what_a_plan_here_did_not_look_at_is_told(world: World) -> None:
    assert make_plan(tuning_workspace(), world).unchecked == [
        "permission to push (--push)",
        "a cluster's Secrets, nodes and quota (--platform kubernetes)",
        "the dataset's rows (before training)",
    ]
    pushing = make_plan(tuning_workspace(), replace(world, push=True)).unchecked
    assert pushing[0].startswith("a cluster's Secrets")


def test_permission_to_push_that_nobody_gave_or_refused_is_not_taken_for_given() -> None:
    silent = RegistryUnavailable("r was asked", "there was no answer", "try again")
    found = Findings(may_push=silent)
    told = make_plan(tuning_workspace(), CLUSTER, found).unchecked
    assert told[0] == "permission to push (r was asked; there was no answer)"
    assert not any("push" in each for each in make_plan(own_pods(), CLUSTER, found).unchecked)


def test_the_schema_s_line_says_what_is_asked_for() -> None:
    first = make_plan(tuning_workspace(method="lora"), CLUSTER).checks[0]
    assert first == Check(name="schema", result="ok", detail="kaito.sh/v1beta1, tuning by lora")
    assert make_plan(own_pods(), CLUSTER).checks[0].detail == "kaito.sh/v1beta1, inference"


@pytest.mark.parametrize("error", [KubernetesUnavailable, KubernetesRefused])
def test_a_cluster_that_does_not_list_its_nodes_is_told_and_stops_nobody(
    error: type[KaitoflowError],
) -> None:
    silent = error("the nodes were listed", "there was no answer", "try again")
    plan = make_plan(tuning_workspace(), CLUSTER, Findings(nodes=silent, provisioner="byo"))
    [told] = [check for check in plan.checks if check.name == "nodes"]
    assert (told.result, told.reason) == ("warn", error.__name__)
    assert told.detail == "the nodes were listed; there was no answer"


def test_a_canary_without_a_key_to_load_adapters_with_is_refused(world: World) -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaitoflow.io/promotion": "canary"}
    asked = parse_workspace(manifest, source="test")
    on_a_cluster = replace(world, is_cluster=True, has_admin_key=False)
    check = checked(asked, on_a_cluster, "words")
    assert (check.result, check.reason) == ("fail", "SecretNotFound")
    assert "Secret default/tuned-admin-key" in check.detail
    assert "kubectl create secret" in check.fix
    plan = make_plan(asked, replace(on_a_cluster, has_admin_key=True))
    assert "SecretNotFound" not in [each.reason for each in plan.checks]


@pytest.mark.parametrize(
    "word", [{"retune-schedule": "6h"}, {"retune-on": "data-change"}, {"promotion": "approve"}]
)
def test_promotions_without_a_key_are_told_what_they_cost_and_the_command_that_makes_one(
    world: World, word: dict[str, str]
) -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {f"kaitoflow.io/{k}": v for k, v in word.items()}
    asked = parse_workspace(manifest, source="test")
    check = checked(asked, replace(world, is_cluster=True, has_admin_key=False), "words")
    assert (check.result, check.reason) == ("warn", "SecretNotFound")
    assert "answers nobody meanwhile" in check.detail
    assert "kubectl create secret generic tuned-admin-key --namespace default" in check.fix
    manifest["metadata"]["annotations"]["kaito.sh/serve"] = "false"
    asked = parse_workspace(manifest, source="test")
    plan = make_plan(asked, replace(world, is_cluster=True, has_admin_key=False))
    assert "SecretNotFound" not in [each.reason for each in plan.checks]
