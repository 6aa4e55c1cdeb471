"""A tuning on two nodes is one Job, of which the first pod speaks, on a real API server."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import yaml

from tasks.contract.errors import GpuIncompatible
from tasks.contract.steps import TUNING
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.base import Pod
from tasks.platform.kubernetes import KubernetesPlatform
from tests.builders import tuning_manifest
from tests.chart.rendering import CRDS
from tests.cluster.control_plane import ControlPlane
from tests.cluster.simulated_node import Script, SimulatedNode, simulated_node
from tests.platform.test_ownership_on_a_cluster import platform, reachable, toy

__all__ = ["platform", "reachable"]
pytestmark = pytest.mark.cluster

Object = dict[str, Any]
NAMES = ("fetch-weights", "fetch-dataset", "tune", "push-image")
POD = Pod(name=TUNING, containers=tuple(map(toy, NAMES)), nodes=2)
UNUSABLE = {
    "event": "verdict",
    "reason": "GpuIncompatible",
    "asked": "a GPU was asked for",
    "found": "its driver is too old",
    "fix": "update it",
    "retryable": False,
}


@pytest.fixture
def nodes(control_plane: ControlPlane, namespace: str) -> Iterator[list[SimulatedNode]]:
    """Two nodes for this test's pods alone."""
    certificates = control_plane.folder / "certificates"
    with ExitStack() as opened:
        yield [
            opened.enter_context(
                simulated_node(
                    control_plane.kubeconfig,
                    name,
                    labels={"apps": namespace, "kubernetes.io/hostname": name},
                    certificate=certificates / "apiserver.crt",
                    key=certificates / "apiserver.key",
                )
            )
            for name in (f"{namespace}-a", f"{namespace}-b")
        ]


@pytest.fixture
def workspace(control_plane: ControlPlane, namespace: str) -> Workspace:
    """One that is there: what an owner has left that is gone, controllers remove."""
    control_plane.define("workspaces.kaito.sh", (CRDS / "kaito.sh_workspaces.yaml").read_text())
    manifest = tuning_manifest("large")
    manifest["metadata"]["namespace"] = namespace
    manifest["resource"] = {"count": 2, "labelSelector": {"matchLabels": {"apps": namespace}}}
    control_plane.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
    get = ("get", "workspace", "large", f"--namespace={namespace}", "--output=json")
    manifest["metadata"]["uid"] = json.loads(control_plane.kubectl(*get))["metadata"]["uid"]
    return parse_workspace(manifest, source="test")


def found(control_plane: ControlPlane, workspace: Workspace, kind: str) -> list[Object]:
    get = ("get", kind, f"--namespace={workspace.metadata.namespace}", "--output=json")
    items: list[Object] = json.loads(control_plane.kubectl(*get))["items"]
    return items


def pods(control_plane: ControlPlane, workspace: Workspace) -> dict[str, Object]:
    """Those that are there to stay, by their number."""
    return {
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]: pod
        for pod in found(control_plane, workspace, "pods")
        if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] != "Failed"
    }


async def said(platform: KubernetesPlatform, workspace: Workspace, name: str) -> list[Any]:
    """The events of a container, until its end."""
    lines = platform.follow(workspace, POD, POD.container(name))
    return [each async for each in lines if isinstance(each, dict)]


async def until(condition: Any) -> None:
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.3)


async def test_the_job_is_done_when_its_first_pod_is(
    control_plane: ControlPlane,
    platform: KubernetesPlatform,
    workspace: Workspace,
    nodes: list[SimulatedNode],
) -> None:
    for node in nodes:
        node.held.add((workspace.metadata.namespace, "push-image"))
    told = await said(platform, workspace, "tune")
    assert told[-1]["event"] == "result"
    there = pods(control_plane, workspace)
    assert {pod["spec"]["nodeName"] for pod in there.values()} == {each.name for each in nodes}
    specs = [there[number]["spec"] for number in ("0", "1")]
    assert [(spec["hostname"], spec["subdomain"]) for spec in specs] == [
        ("large-tune-1-0", "large-tune-pods"),
        ("large-tune-1-1", "large-tune-pods"),
    ]
    for node in nodes:
        node.held.clear()
    assert (await said(platform, workspace, "push-image"))[-1]["event"] == "result"

    def is_over() -> bool:
        [job] = found(control_plane, workspace, "jobs")
        kinds = {each["type"] for each in job["status"].get("conditions", ())}
        return "Complete" in kinds and "1" not in pods(control_plane, workspace)

    await until(is_over)


async def test_a_pod_that_is_lost_is_made_anew_beside_the_first(
    control_plane: ControlPlane,
    platform: KubernetesPlatform,
    workspace: Workspace,
    nodes: list[SimulatedNode],
) -> None:
    for node in nodes:
        node.held.add((workspace.metadata.namespace, "tune"))
    following = asyncio.create_task(said(platform, workspace, "push-image"))
    await until(
        lambda: sum(node.alive[workspace.metadata.namespace, "tune"] for node in nodes) == 2
    )
    before = pods(control_plane, workspace)
    lost = before["1"]["metadata"]
    gone = ("delete", "pod", lost["name"], f"--namespace={lost['namespace']}")
    await asyncio.to_thread(control_plane.kubectl, *gone)
    await until(lambda: "1" in pods(control_plane, workspace))
    after = pods(control_plane, workspace)
    assert after["0"]["metadata"]["uid"] == before["0"]["metadata"]["uid"]
    assert after["1"]["metadata"]["uid"] != lost["uid"]
    for node in nodes:
        node.held.clear()
    assert (await following)[-1]["event"] == "result"


async def test_what_another_pod_has_failed_with_is_what_the_run_has(
    platform: KubernetesPlatform, workspace: Workspace, nodes: list[SimulatedNode]
) -> None:
    for node in nodes:
        node.held.add((workspace.metadata.namespace, "tune"))
        node.scripts["fetch-dataset 1"] = Script((UNUSABLE,), exit_code=1)
    with pytest.raises(GpuIncompatible, match="pod 1: its driver is too old"):
        await said(platform, workspace, "tune")


async def test_a_rehearsal_of_two_pods_makes_nothing_and_is_taken_by_a_restricted_namespace(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    control_plane.kubectl("label", "namespace", workspace.metadata.namespace, label)
    assert await platform.rehearse(workspace, POD) == []
    assert found(control_plane, workspace, "jobs,services,pods") == []


async def test_all_that_two_pods_had_goes_with_the_workspace(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    lines = platform.follow(workspace, POD, POD.containers[0])
    await anext(lines)
    await lines.aclose()
    assert len(found(control_plane, workspace, "jobs,services")) == 2
    await platform.delete(workspace)
    assert found(control_plane, workspace, "jobs,services,pods") == []
