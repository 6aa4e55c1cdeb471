"""The quick start on real nodes: the chart, our images, the small model, and nothing made up but
the GPU. One cluster is installed and one Workspace applied; each test looks at one side of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import yaml

from tests.builders import tuning_manifest
from tests.cluster.installed import (
    RUN_LIMIT_S,
    TEAMS,
    Answer,
    Team,
    chatting,
    eventually,
    failed,
)
from tests.cluster.node import claim_gpus, have_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

NAME, TEAM, IMAGE = "workspace-tuning", TEAMS[0], "adapters/quickstart"
ORDER = ["Accepted", "NodesReady", "ResourceReady", "JobStarted", "InferenceReady"]


@dataclass
class Served:
    """What was seen of the Workspace until it was served."""

    start: Team
    turned_true: list[str]
    table: list[str]
    services: list[str]
    status: dict[str, Any]
    digest_by_skopeo: str
    models: set[str]
    answer: str
    compiler: str


@pytest.fixture(scope="module")
def workspace(installed: Team, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The quick start's Workspace with its placeholders filled in, applied and served."""
    start, folder = installed, tmp_path_factory.mktemp("skopeo")
    start.kubectl("label", "node", "gpu", "app=tuning", "--overwrite")
    start.have_login("push")
    manifest = tuning_manifest(
        NAME,
        input={"urls": [start.dataset]},
        output={"image": f"{start.registry}/{IMAGE}:0.0.1", "imagePushSecret": "push"},
    )
    manifest["apiVersion"] = "kaito.sh/v1alpha1"
    manifest["resource"]["labelSelector"] = {"matchLabels": {"app": "tuning"}}
    start.in_team("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
    turned_true: list[str] = []

    def is_over() -> bool:
        status = start.status(NAME)
        for each in status.get("conditions", []):
            if each["status"] == "True" and each["type"] not in turned_true:
                turned_true.append(each["type"])
        return status.get("state") in {"Ready", "Failed"}

    eventually(is_over, limit_s=RUN_LIMIT_S, otherwise=lambda: start.report(NAME))
    status = start.status(NAME)
    assert status["state"] == "Ready", start.report(NAME)
    models, answer = talk(start)
    return Served(
        start,
        turned_true,
        table=start.in_team("get", "workspace").splitlines(),
        services=start.in_team("get", "svc").splitlines(),
        status=status,
        digest_by_skopeo=start.digest(status["image"]["reference"], folder=folder),
        models=models,
        answer=answer,
        compiler=start.kubectl(
            *("exec", f"--namespace={TEAM}", f"statefulset/{NAME}", "--", "gcc", "--version")
        ),
    )


def talk(start: Team) -> tuple[set[str], str]:
    """Which models the Service's cluster address has, and what the tuned one answers there."""
    url = start.url(NAME)
    asked = {"prompt": "What does os.path.join do?"}
    with httpx2.Client(trust_env=False, timeout=120) as client:
        models = client.get(f"{url}/v1/models").raise_for_status().json()["data"]
        answer = client.post(f"{url}/chat", json=asked).raise_for_status().json()
    return {model["id"] for model in models}, answer["Result"]


def test_its_conditions_turn_true_one_after_the_other(workspace: Served) -> None:
    assert [each for each in workspace.turned_true if each in ORDER] == ORDER
    assert "WorkspaceSucceeded" in workspace.turned_true


def test_kubectl_prints_the_documented_tables(workspace: Served) -> None:
    assert workspace.table[0].split() == [
        *("NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"),
    ]
    assert workspace.table[1].split()[:5] == [NAME, "Standard_NC4as_T4_v3", "True", "True", "True"]
    [line] = [line.split() for line in workspace.services if line.split()[0] == NAME]
    assert (line[1], line[4]) == ("ClusterIP", "80/TCP,29500/TCP")


def test_tuning_lowered_the_loss_on_held_out_answers(workspace: Served) -> None:
    held_out = workspace.status["heldOut"]
    assert held_out["lossAfter"] < held_out["lossBefore"]


def test_another_tool_finds_the_image_in_the_registry(workspace: Served) -> None:
    assert workspace.digest_by_skopeo == workspace.status["image"]["digest"]


def test_the_tuned_model_answers_at_the_service_s_address(workspace: Served) -> None:
    assert NAME in workspace.models
    assert len(workspace.answer.split()) > 3


def test_a_pod_has_the_compiler_that_kernels_for_gpus_need(workspace: Served) -> None:
    assert workspace.compiler.startswith("gcc")


@dataclass(frozen=True)
class Edited:
    """What was seen while the served Workspace was edited, and the edit was refused."""

    served: Served
    answers: list[Answer]
    while_refused: dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def refused_edit(workspace: Served) -> Edited:
    """An edit that names a ConfigMap that is not there, taken back while a client goes on."""
    start = workspace.start
    with chatting(start, NAME) as answers:
        wait_for(start, lambda: len(answers) > 2)
        edit(start, "is-not-there")
        wait_for(start, lambda: conditions(start)["Accepted"] == ("False", 2))
        while_refused = conditions(start)
        edit(start, None)
        wait_for(start, lambda: conditions(start)["Accepted"] == ("True", 3))
        enough = len(answers) + 3
        wait_for(start, lambda: len(answers) >= enough)
    return Edited(workspace, answers, while_refused)


@dataclass(frozen=True)
class Recovered:
    """What was seen after the served Workspace's node was lost."""

    start: Team
    while_lost: dict[str, tuple[str, int]]
    models: set[str]
    answer: str


@pytest.fixture(scope="module")
def node_lost(refused_edit: Edited) -> Iterator[Recovered]:
    """The node on which the model was served is gone, and another one has its label.

    At the end it is there again, for who comes after these tests.
    """
    start = refused_edit.served.start
    gpu = next(node for node in start.cluster.nodes if node.plan.name == "gpu")
    for program in (gpu.kubelet, gpu.containerd):
        program.kill()
    try:
        start.kubectl("delete", "node", "gpu")  # as a cloud does, whose machine is gone
        wait_for(start, lambda: conditions(start)["ResourceReady"][0] == "False")
        while_lost = conditions(start)
        claim_gpus("cpu", 1, start.cluster.control_plane)
        start.kubectl("label", "node", "cpu", "app=tuning", "--overwrite")
        wait_for(start, lambda: is_served_on(start, "cpu"), limit_s=RUN_LIMIT_S)
        yield Recovered(start, while_lost, *talk(start))
    finally:
        for node in start.cluster.nodes:
            have_running(node, start.cluster.control_plane)


@pytest.fixture(scope="module")
def left(node_lost: Recovered) -> list[str]:
    """What there is once the Workspace was deleted, as kind/name."""
    start = node_lost.start
    start.in_team("delete", "workspace", NAME, "--timeout=120s")
    kinds = "jobs,statefulsets,services,configmaps,pods,controllerrevisions,secrets"
    return start.in_team("get", kinds, "--output=name").split()


def test_clients_notice_nothing_of_an_edit_that_is_refused(refused_edit: Edited) -> None:
    assert failed(refused_edit.answers) == []


def test_what_served_before_a_refused_edit_is_shown_as_served(refused_edit: Edited) -> None:
    assert refused_edit.while_refused["InferenceReady"] == ("True", 1)


def test_a_served_model_answers_again_after_its_node_was_lost(node_lost: Recovered) -> None:
    assert NAME in node_lost.models
    assert len(node_lost.answer.split()) > 3


def test_a_lost_node_is_told_at_once(node_lost: Recovered) -> None:
    assert node_lost.while_lost["ResourceReady"][0] == "False"
    assert node_lost.while_lost["InferenceReady"][0] == "False"


def test_deleting_it_leaves_nothing_but_what_is_the_user_s(left: list[str]) -> None:
    assert sorted(left) == ["configmap/kube-root-ca.crt", "secret/push"]


def edit(start: Team, config: str | None) -> None:
    """Have the Workspace name another ConfigMap with its training's settings, or none."""
    patch = json.dumps({"tuning": {"config": config}})
    start.in_team("patch", "workspace", NAME, "--type=merge", f"--patch={patch}")


def conditions(start: Team) -> dict[str, tuple[str, int]]:
    """How each condition stands, and of which generation."""
    found = start.status(NAME)["conditions"]
    return {each["type"]: (each["status"], each["observedGeneration"]) for each in found}


def is_served_on(start: Team, node: str) -> bool:
    """Whether the Workspace is Ready, and has its pods on this node only."""
    nodes = {pod["spec"].get("nodeName") for pod in start.found("pods")["items"]}
    is_ready: bool = start.status(NAME)["state"] == "Ready"
    return is_ready and nodes == {node}


def wait_for(start: Team, is_so: Callable[[], bool], *, limit_s: float = 120) -> None:
    """Return once it is so; what a person would look at, when it is not."""
    eventually(is_so, limit_s=limit_s, otherwise=lambda: start.report(NAME))
