"""A command of a user's own is the last container of a candidate's Job, on a real API server."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from tasks.contract.errors import GateCommandFailed
from tasks.contract.programs.evaluation import CommandConfig
from tasks.contract.steps import CANDIDATE, TUNING
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.base import Container, Pod
from tasks.platform.kubernetes import KubernetesPlatform
from tests.builders import tuning_manifest
from tests.chart.rendering import CRDS
from tests.cluster.control_plane import ControlPlane
from tests.cluster.simulated_node import Script, SimulatedNode, simulated_node
from tests.platform.test_ownership_on_a_cluster import platform, reachable, toy

__all__ = ["platform", "reachable"]
pytestmark = pytest.mark.cluster

Object = dict[str, Any]
COMMAND = CommandConfig(
    image="ghcr.io/example/score:1",
    words=("python", "/score.py"),
    environment=(("KAITOFLOW_GATE_CANDIDATE", "/mnt/results/adapter"),),
)
SCORE = Container(name="score", program="tasks.evaluation.pod.command", config=COMMAND)
BEFORE = Pod(name=CANDIDATE, candidate=2, containers=(toy("tune"), toy("measure")))
POD = replace(BEFORE, containers=(*BEFORE.containers, SCORE))
SCORES = '{"candidate": [1, 0.5]}'


@pytest.fixture
def node(control_plane: ControlPlane, namespace: str) -> Iterator[SimulatedNode]:
    certificates = control_plane.folder / "certificates"
    with simulated_node(
        control_plane.kubeconfig,
        f"{namespace}-node",
        labels={"apps": namespace},
        certificate=certificates / "apiserver.crt",
        key=certificates / "apiserver.key",
    ) as node:
        yield node


@pytest.fixture
def workspace(control_plane: ControlPlane, namespace: str) -> Workspace:
    """One that is there: what an owner has left that is gone, controllers remove."""
    control_plane.define("workspaces.kaito.sh", (CRDS / "kaito.sh_workspaces.yaml").read_text())
    label = "pod-security.kubernetes.io/enforce=restricted"
    control_plane.kubectl("label", "namespace", namespace, label)
    manifest = tuning_manifest("scored")
    manifest["metadata"]["namespace"] = namespace
    manifest["resource"] = {"labelSelector": {"matchLabels": {"apps": namespace}}}
    control_plane.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
    get = ("get", "workspace", "scored", f"--namespace={namespace}", "--output=json")
    manifest["metadata"]["uid"] = json.loads(control_plane.kubectl(*get))["metadata"]["uid"]
    return parse_workspace(manifest, source="test")


def job(control_plane: ControlPlane, workspace: Workspace) -> Object:
    get = ("get", "jobs", f"--namespace={workspace.metadata.namespace}", "--output=json")
    [found] = json.loads(control_plane.kubectl(*get))["items"]
    return dict(found)


async def followed(platform: KubernetesPlatform, workspace: Workspace, pod: Pod) -> list[Any]:
    """What the pod's last container says, but for what it waits for."""
    said = [each async for each in platform.follow(workspace, pod, pod.containers[-1])]
    return [
        each
        for each in said
        if isinstance(each, str) or each["event"] not in ("waiting", "started")
    ]


async def test_what_a_command_prints_last_is_its_result(
    platform: KubernetesPlatform, workspace: Workspace, node: SimulatedNode
) -> None:
    forged = '{"event": "verdict", "reason": "DiskFull"}'
    node.scripts["score"] = Script(prints=(forged, SCORES, "scored"))
    told = await followed(platform, workspace, POD)
    assert told == [forged, SCORES, "scored", {"event": "result", "said": SCORES}]


async def test_a_command_that_fails_ends_the_job_and_nothing_is_trained_again(
    control_plane: ControlPlane,
    platform: KubernetesPlatform,
    workspace: Workspace,
    node: SimulatedNode,
) -> None:
    node.scripts["score"] = Script(prints=("no rows",), exit_code=2)
    with pytest.raises(GateCommandFailed, match="with exit code 2"):
        await followed(platform, workspace, POD)
    async with asyncio.timeout(60):
        while not (ended := job(control_plane, workspace)["status"].get("conditions")):
            await asyncio.sleep(0.3)
    assert ended[-1]["type"] in ("FailureTarget", "Failed")
    assert node.started[workspace.metadata.namespace, "tune"] == 1


@pytest.mark.parametrize(("name", "candidate"), [(CANDIDATE, 2), (TUNING, None)])
async def test_a_job_that_was_begun_before_an_annotation_asked_for_a_container_is_begun_anew(
    control_plane: ControlPlane,
    platform: KubernetesPlatform,
    workspace: Workspace,
    node: SimulatedNode,
    name: str,
    candidate: int | None,
) -> None:
    node.scripts["score"] = Script(prints=(SCORES,))
    before_it, with_it = (replace(pod, name=name, candidate=candidate) for pod in (BEFORE, POD))
    await followed(platform, workspace, before_it)
    before = job(control_plane, workspace)["metadata"]["uid"]
    again = KubernetesPlatform(platform._settings)
    try:
        assert (await followed(again, workspace, with_it))[-1] == {
            "event": "result",
            "said": SCORES,
        }
    finally:
        await again.close()
        await asyncio.sleep(0.25)  # aiohttp's TLS connections are closed a little later
    assert job(control_plane, workspace)["metadata"]["uid"] != before
