"""Where nodes are made: what serves is tuned again, and a run that waits heeds annotations."""

from typing import Any

import pytest

from tests.cluster.simulated_node import DIGEST
from tests.flows.watcher.azure import Azure
from tests.flows.watcher.clouds import claims_of
from tests.flows.watcher.conftest import new_namespace
from tests.flows.watcher.installation import Installation, wait_until
from tests.flows.watcher.test_aks_quick_start import (
    NAME,
    T4,
    azure,
    claiming,
    delete,
    installed,
    quick_start,
)

__all__ = ["azure", "claiming", "installed"]
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]


def on_a_gpu(namespace: str, dataset: str) -> dict[str, Any]:
    """The quick start with a model that needs a GPU, which its server holds."""
    manifest = quick_start(namespace)
    manifest["tuning"]["preset"]["name"] = "phi-4-mini-instruct"
    manifest["tuning"]["input"]["urls"] = [f"https://example.com/{dataset}.parquet"]
    return manifest


def test_a_second_pool_tunes_what_the_first_serves_and_one_is_left(
    installed: Installation, azure: Azure
) -> None:
    namespace = new_namespace(installed)
    installed.apply(on_a_gpu(namespace, "first"))
    installed.wait_until_ready(namespace, name=NAME)
    seen: list[tuple[str, str]] = []

    def is_served_meanwhile(status: dict[str, Any]) -> bool:
        found = {c["type"]: c for c in status["conditions"]}
        if status["observedGeneration"] == 2 and status["state"] != "Ready":
            seen.append((found["ResourceReady"]["status"], found["ResourceReady"]["message"]))
        return bool(status["observedGeneration"] == 2 and status["state"] == "Ready")

    installed.apply(on_a_gpu(namespace, "second"))
    status = installed.wait_for(namespace, is_served_meanwhile, name=NAME)
    assert seen
    assert [message for is_ready, message in seen if is_ready != "True"] == []
    assert azure.started[namespace, "tune"] == 2
    assert azure.arm.calls["PUT"] == 2
    assert status["image"]["digest"] == DIGEST
    wait_until(lambda: len(claims_of(installed)) == 1, "one claim")
    [claim] = claims_of(installed)
    [node] = installed.status(namespace, NAME)["workerNodes"]
    assert claim["status"]["nodeName"] == node
    pod = installed.get("pod", namespace, f"{NAME}-0")
    assert pod["spec"]["nodeName"] == node
    delete(installed, namespace)
    assert (azure.arm.pools, claims_of(installed)) == ({}, [])


def test_a_node_that_is_lost_while_a_newer_generation_tunes_is_claimed_again_meanwhile(
    installed: Installation, azure: Azure
) -> None:
    namespace = new_namespace(installed)
    installed.apply(on_a_gpu(namespace, "first"))
    installed.wait_until_ready(namespace, name=NAME)
    [first] = claims_of(installed)
    azure.held.add((namespace, "tune"))
    installed.apply(on_a_gpu(namespace, "second"))
    wait_until(lambda: azure.started[namespace, "tune"] == 2, "the second tuning")
    azure.lose(first["metadata"]["name"])

    def answers(status: dict[str, Any]) -> bool:
        found = {c["type"]: (c["status"], c["observedGeneration"]) for c in status["conditions"]}
        nodes = [status["state"], found["InferenceReady"], found["ResourceReady"]]
        return azure.arm.calls["PUT"] == 3 and nodes == ["Running", ("True", 1), ("True", 1)]

    installed.wait_for(namespace, answers, name=NAME, what="generation 1 to answer meanwhile")
    assert azure.started[namespace, "tune"] == 2
    azure.held.clear()
    status = installed.wait_until_ready(namespace, name=NAME)
    assert (status["observedGeneration"], azure.started[namespace, "tune"]) == (2, 2)
    wait_until(lambda: len(claims_of(installed)) == 1, "one claim")
    delete(installed, namespace)
    assert (azure.arm.pools, claims_of(installed)) == ({}, [])


def test_a_node_that_is_lost_beside_a_refused_edit_is_claimed_again_and_serves_as_before(
    installed: Installation, azure: Azure
) -> None:
    namespace = new_namespace(installed)
    manifest = on_a_gpu(namespace, "first")
    installed.apply(manifest)
    installed.wait_until_ready(namespace, name=NAME)
    manifest["tuning"]["config"] = "missing"
    installed.apply(manifest)
    installed.wait_for(namespace, lambda status: status.get("state") == "Failed", name=NAME)

    [lost] = claims_of(installed)
    azure.lose(lost["metadata"]["name"])
    wait_until(lambda: azure.arm.calls["PUT"] == 2, "a second pool")

    def is_as_it_was(status: dict[str, Any]) -> bool:
        there = {c["type"] for c in status["conditions"] if c["status"] == "True"}
        return status.get("state") == "Failed" and {"InferenceReady", "NodesReady"} <= there

    status = installed.wait_for(namespace, is_as_it_was, name=NAME, what="generation 1 to answer")
    found = {c["type"]: c for c in status["conditions"]}
    assert found["InferenceReady"]["observedGeneration"] == 1
    assert found["Accepted"]["reason"] == "ConfigMapNotFound"
    assert azure.started[namespace, "tune"] == 1
    [claim] = claims_of(installed)
    assert claim["metadata"]["uid"] != lost["metadata"]["uid"]
    assert status["workerNodes"] == [claim["status"]["nodeName"]]
    delete(installed, namespace)


def test_where_no_second_pool_is_to_be_had_the_server_pauses_if_it_may(
    installed: Installation, azure: Azure
) -> None:
    namespace = new_namespace(installed)
    installed.apply(on_a_gpu(namespace, "first"))
    installed.wait_until_ready(namespace, name=NAME)
    azure.arm.fails_with[T4] = "AllocationFailed"
    manifest = on_a_gpu(namespace, "second")
    manifest["metadata"]["annotations"] = {"kaitoflow.io/tune-while-serving": "auto"}
    paused: list[str] = []

    def is_ready(status: dict[str, Any]) -> bool:
        [serves] = [c for c in status["conditions"] if c["type"] == "InferenceReady"]
        paused.append(serves["reason"])
        return bool(status["observedGeneration"] == 2 and status["state"] == "Ready")

    installed.apply(manifest)
    installed.wait_for(namespace, is_ready, name=NAME)
    assert "ServerPaused" in paused
    assert azure.started[namespace, "tune"] == 2
    wait_until(lambda: len(claims_of(installed)) == 1, "one claim")
    delete(installed, namespace)


def test_a_machine_that_is_named_while_none_is_to_be_had_is_claimed(
    installed: Installation, azure: Azure
) -> None:
    namespace = new_namespace(installed)
    azure.arm.fails_with[T4] = "AllocationFailed"
    installed.apply(quick_start(namespace))
    installed.wait_for(
        namespace,
        lambda status: "kaitoflow.io/instance-types" in status.get("progressText", ""),
        name=NAME,
        what="what may be annotated",
    )
    annotation = "kaitoflow.io/instance-types=Standard_NC6s_v3"
    installed.kubectl("annotate", "workspace", NAME, "-n", namespace, annotation)
    status = installed.wait_until_ready(namespace, name=NAME)
    assert status["attempt"] == 0
    assert azure.arm.puts[-1]["properties"]["vmSize"] == "Standard_NC6s_v3"
    delete(installed, namespace)
