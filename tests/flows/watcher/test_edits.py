"""An edit never costs what serves: refused, without effect, taken back, or tuned beside it."""

from functools import partial
from typing import Any

import pytest

from tests.cluster.simulated_node import DIGEST, PUSHED, Script
from tests.flows.watcher.clouds import joining, wanting
from tests.flows.watcher.conftest import Installation
from tests.flows.watcher.installation import wait_until, workspace_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

TUNING = ("fetch-dataset", "tune", "push-image")
FAILED_TUNING = Script(
    (
        {
            "event": "verdict",
            "reason": "TrainingDiverged",
            "message": "the model was trained; the loss is not a number; lower the learning rate",
            "retryable": False,
        },
    ),
    exit_code=3,
)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in status["conditions"] if c["type"] == kind)
    return found


def server_pod(installed: Installation, namespace: str) -> tuple[str, str]:
    """The server's pod by its uid, and the generation that it is labelled with."""
    meta = installed.get("pod", namespace, "tuned-0")["metadata"]
    return meta["uid"], meta["labels"]["kaitoflow.io/generation"]


def served(installed: Installation, namespace: str) -> dict[str, Any]:
    """The Workspace's manifest, once it is served."""
    manifest = workspace_manifest(namespace)
    installed.apply(manifest)
    installed.wait_until_ready(namespace)
    return manifest


def wait_until_settled(installed: Installation, namespace: str, generation: int) -> dict[str, Any]:
    def is_settled(status: dict[str, Any]) -> bool:
        is_current = status.get("observedGeneration") == generation
        return is_current and status["state"] in ("Ready", "Failed")

    return installed.wait_for(namespace, is_settled, what=f"the end of generation {generation}")


def columns(installed: Installation, namespace: str) -> list[str]:
    """RESOURCEREADY and INFERENCEREADY of `kubectl get`."""
    return installed.kubectl("get", "workspace", "-n", namespace).splitlines()[1].split()[2:4]


def test_a_refused_edit_leaves_what_serves_and_taking_it_back_runs_nothing(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    manifest = served(installed, namespace)
    pod, started = server_pod(installed, namespace), dict(installed.node.started)
    installed.apply(workspace_manifest(namespace, config="missing"))
    status = wait_until_settled(installed, namespace, 2)
    accepted, serves = condition(status, "Accepted"), condition(status, "InferenceReady")
    assert (accepted["status"], accepted["observedGeneration"]) == ("False", 2)
    assert accepted["reason"] == "ConfigMapNotFound"
    assert (serves["status"], serves["observedGeneration"]) == ("True", 1)
    assert columns(installed, namespace) == ["True", "True"]

    manifest["tuning"]["config"] = None  # which `kubectl apply` takes away
    installed.apply(manifest)
    status = wait_until_settled(installed, namespace, 3)
    assert (status["state"], condition(status, "InferenceReady")["observedGeneration"]) == (
        "Ready",
        3,
    )
    tuned = next(step["detail"] for step in status["steps"] if step["name"] == "tune")
    assert tuned == "tuned in generation 1; nothing it depends on has changed"
    assert server_pod(installed, namespace) == pod
    assert dict(installed.node.started) == started


def test_what_serves_beside_a_refused_edit_gets_back_what_it_loses(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    served(installed, namespace)
    trained = {name: installed.node.started[namespace, name] for name in TUNING}
    installed.apply(workspace_manifest(namespace, config="missing"))
    wait_until_settled(installed, namespace, 2)

    def is_as_it_was(status: dict[str, Any]) -> bool:
        answers = condition(status, "InferenceReady")
        return bool(status.get("state") == "Failed" and answers["status"] == "True")

    for lost in ("service/tuned", "statefulset/tuned", "configmap/tuned-inference-1"):
        uid = installed.kubectl("get", lost, "-n", namespace, "-o", "jsonpath={.metadata.uid}")
        installed.kubectl("delete", lost, "-n", namespace)
        wait_until(partial(is_another, installed, namespace, lost, uid), f"{lost} to be made again")
        status = installed.wait_for(namespace, is_as_it_was, what="generation 1 to answer")
        refused, serves = condition(status, "Accepted"), condition(status, "InferenceReady")
        assert (refused["reason"], refused["observedGeneration"]) == ("ConfigMapNotFound", 2)
        assert serves["observedGeneration"] == 1
        assert server_pod(installed, namespace)[1] == "1"
    assert {name: installed.node.started[namespace, name] for name in TUNING} == trained


def is_another(installed: Installation, namespace: str, about: str, uid: str) -> bool:
    """Whether the object is there, and is not the one of this uid."""
    command = ("get", about, "-n", namespace, "--ignore-not-found")
    found = installed.kubectl(*command, "-o", "jsonpath={.metadata.uid}")
    return found not in ("", uid)


def test_an_edit_without_effect_on_what_serves_leaves_its_pod(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    manifest = served(installed, namespace)
    pod, started = server_pod(installed, namespace), dict(installed.node.started)
    manifest["resource"]["preferredNodes"] = ["simulated"]
    installed.apply(manifest)
    status = wait_until_settled(installed, namespace, 2)
    assert status["state"] == "Ready"
    assert server_pod(installed, namespace) == pod
    assert dict(installed.node.started) == started


def test_taking_back_an_edit_that_was_tuned_serves_the_former_adapter_and_trains_nothing(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    manifest = served(installed, namespace)
    installed.node.scripts["push-image"] = Script((PUSHED | {"digest": "sha256:" + "b" * 64},))
    urls, other = manifest["tuning"]["input"]["urls"], ["https://example.com/other.parquet"]
    for generation, asked in ((2, other), (3, urls)):
        manifest["tuning"]["input"]["urls"] = asked
        installed.apply(manifest)
        status = wait_until_settled(installed, namespace, generation)
        assert status["state"] == "Ready"
    told = {step["name"]: step["detail"] for step in status["steps"]}
    assert told["tune"] == "tuned in generation 1; nothing it depends on has changed"
    assert told["push"].endswith(f"names again {DIGEST}")
    assert status["image"]["digest"] == DIGEST
    assert server_pod(installed, namespace)[1] == "3"
    [pull] = [
        text
        for name, text in installed.get("configmap", namespace, "tuned-inference-3")["data"].items()
        if name.startswith("pull-")
    ]
    assert DIGEST in pull
    started = {name: installed.node.started[namespace, name] for name in (*TUNING, "tag-image")}
    assert started == dict.fromkeys(TUNING, 2) | {"tag-image": 1}


def test_an_edit_of_an_edit_that_is_tuned_leaves_what_serves(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    manifest = served(installed, namespace)
    pod = server_pod(installed, namespace)
    installed.node.held.add((namespace, "tune"))
    installed.node.scripts["tune"] = FAILED_TUNING
    for generation in (2, 3):
        manifest["tuning"]["input"]["urls"] = [f"https://example.com/{generation}.parquet"]
        installed.apply(manifest)
        installed.wait_until_started(namespace, "tune", generation)
        status = installed.status(namespace)
        serves = condition(status, "InferenceReady")
        assert (serves["status"], serves["observedGeneration"]) == ("True", 1)
        assert columns(installed, namespace) == ["True", "True"]
    installed.node.held.clear()
    status = wait_until_settled(installed, namespace, 3)
    assert status["state"] == "Failed"
    assert condition(status, "InferenceReady")["observedGeneration"] == 1
    assert server_pod(installed, namespace) == pod


def annotate(installed: Installation, namespace: str, *annotations: str) -> None:
    command = ("annotate", "workspace", "tuned", "-n", namespace, "--overwrite")
    installed.kubectl(*command, *annotations)


def test_edited_annotations_take_effect_on_a_workspace_that_is_served(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    served(installed, namespace)
    pod = server_pod(installed, namespace)
    annotate(installed, namespace, "kaito.sh/enablelb=True")
    wait_until(
        lambda: installed.get("svc", namespace, "tuned")["spec"]["type"] == "LoadBalancer",
        "a balancer",
    )
    installed.wait_until_ready(namespace)
    assert server_pod(installed, namespace) == pod

    annotate(installed, namespace, "kaito.sh/serve=false")
    installed.wait_for(namespace, lambda status: status["state"] == "Succeeded")
    assert installed.names("statefulsets,services", namespace) == []
    annotate(installed, namespace, "kaito.sh/serve=true")
    installed.wait_until_ready(namespace)
    assert {name: installed.node.started[namespace, name] for name in TUNING} == dict.fromkeys(
        TUNING, 1
    )


def test_a_run_that_waits_for_nodes_heeds_an_edited_annotation(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    manifest = wanting(namespace)
    installed.apply(manifest)
    taint = {"key": "team", "value": "ml", "effect": "NoSchedule"}
    machine = manifest["resource"]["instanceType"]
    with joining(
        installed, "team", {"apps": namespace}, instance_type=machine, taints=[taint]
    ) as node:
        installed.wait_for(
            namespace,
            lambda status: "taint team=ml" in status.get("progress", {}).get("phase", ""),
            what="a node with a taint",
        )
        annotate(installed, namespace, "kaitoflow.io/tolerations=team=ml:NoSchedule")
        installed.wait_until_ready(namespace)
        assert node.started[namespace, "tune"] == 1


def test_on_one_gpu_a_server_pauses_for_its_successor_and_comes_back(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    manifest = wanting(namespace)
    manifest["tuning"]["preset"]["name"] = "phi-4-mini-instruct"
    machine = manifest["resource"]["instanceType"]

    def retune(number: int) -> None:
        manifest["tuning"]["input"]["urls"] = [f"https://example.com/{number}.parquet"]
        installed.apply(manifest)

    with joining(installed, "one-gpu", {"apps": namespace}, instance_type=machine, gpus=1) as node:
        retune(1)
        installed.wait_until_ready(namespace)
        retune(2)
        status = wait_until_settled(installed, namespace, 2)
        refused = condition(status, "Accepted")
        assert (refused["status"], refused["reason"]) == ("False", "NoRoomToTune")
        assert condition(status, "InferenceReady")["status"] == "True"

        node.held.add((namespace, "tune"))
        manifest["metadata"]["annotations"] = {"kaitoflow.io/tune-while-serving": "pause"}
        installed.apply(manifest)  # the annotation alone: the same generation
        wait_until(lambda: node.started[namespace, "tune"] == 2, "the second tuning")
        status = installed.wait_for(
            namespace,
            lambda s: condition(s, "InferenceReady")["reason"] == "ServerPaused",
            what="the pause to be told",
        )
        assert condition(status, "InferenceReady")["observedGeneration"] == 1
        node.scripts["push-image"] = Script((PUSHED | {"digest": "sha256:" + "b" * 64},))
        node.held.clear()
        status = installed.wait_until_ready(namespace)
        assert condition(status, "InferenceReady")["observedGeneration"] == 2
        assert server_pod(installed, namespace)[1] == "2"

        node.scripts["tune"] = FAILED_TUNING
        retune(3)
        status = installed.wait_for(
            namespace,
            lambda s: s["state"] == "Failed" and condition(s, "InferenceReady")["status"] == "True",
            what="the server to come back",
        )
        failed = condition(status, "WorkspaceSucceeded")
        assert (failed["reason"], failed["observedGeneration"]) == ("TrainingDiverged", 3)
        assert "generation 2" in failed["message"]
        assert condition(status, "InferenceReady")["observedGeneration"] == 2
        assert server_pod(installed, namespace)[1] == "2"
