"""A node that is about to be taken away is left in order, on a real API server."""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.contract.steps import TUNING
from tasks.contract.workspace import Workspace
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.leaving import sign_of_leaving
from tasks.platform.manifests.labels import (
    GENERATION_LABEL,
    POD_LABEL,
    POD_NUMBER_LABEL,
    workspace_labels,
)
from tasks.platform.wire import condition
from tests.cluster.control_plane import ControlPlane
from tests.platform.test_ownership_on_a_cluster import platform, reachable, workspace

__all__ = ["platform", "reachable", "workspace"]

Making = Callable[..., str]


def node(*, conditions: dict[str, str] | None = None, taint: str = "") -> dict[str, Any]:
    told = [{"type": kind, "status": status} for kind, status in (conditions or {}).items()]
    taints = [{"key": taint, "effect": "NoSchedule"}] if taint else None
    meta = {"name": "spot"}
    return {"metadata": meta, "spec": {"taints": taints}, "status": {"conditions": told}}


@pytest.mark.parametrize(
    ("seen", "sign"),
    [
        (node(conditions={"Ready": "True"}), ""),
        (node(conditions={"PreemptionScheduled": "False"}), ""),
        (node(taint="aws-node-termination-handler/rebalance-recommendation"), ""),
        (node(conditions={"PreemptionScheduled": "True"}), "PreemptionScheduled"),
        (
            node(taint="cloud.google.com/impending-node-termination"),
            "cloud.google.com/impending-node-termination",
        ),
        (
            node(taint="aws-node-termination-handler/spot-itn"),
            "aws-node-termination-handler/spot-itn",
        ),
        (node(taint="karpenter.sh/disrupted"), "karpenter.sh/disrupted"),
    ],
)
def test_a_node_goes_when_its_cloud_says_so_and_not_when_it_only_advises(
    seen: dict[str, Any], sign: str
) -> None:
    assert sign_of_leaving(seen) == sign


@pytest.fixture
def pod_on(control_plane: ControlPlane, workspace: Workspace) -> Iterator[Making]:
    """Makes the tuning pod on a node of its own that says that it goes; the container runs."""
    name, meta = f"spot-{secrets.token_hex(4)}", workspace.metadata
    here = f"--namespace={meta.namespace}"

    def make(running: str, *, number: int = 0) -> str:
        control_plane.kubectl(
            *("create", "--filename=-"),
            stdin=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}),
        )
        notice = {"conditions": [{"type": "PreemptionScheduled", "status": "True"}]}
        patch(("node", name), notice)
        labels = workspace_labels(workspace)
        labels |= {GENERATION_LABEL: str(meta.generation), POD_LABEL: TUNING}
        labels |= {POD_NUMBER_LABEL: str(number)}
        containers = [{"name": each, "image": "example.test/x"} for each in ("tune", "push")]
        spec = {"nodeName": name, "initContainers": containers[:1], "containers": containers[1:]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}}
        control_plane.kubectl(
            "create", here, "--filename=-", stdin=json.dumps(pod | {"spec": spec})
        )
        kind = "initContainerStatuses" if running == "tune" else "containerStatuses"
        state = {"running": {"startedAt": "2026-11-30T10:00:00Z"}}
        status = {"name": running, "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
        patch(("pod", name, here), {"phase": "Running", kind: [status | {"state": state}]})
        return name

    def patch(about: tuple[str, ...], status: dict[str, Any]) -> None:
        told = json.dumps({"status": status})
        control_plane.kubectl("patch", *about, "--subresource=status", f"--patch={told}")

    yield make
    control_plane.kubectl("delete", "pod", name, here, "--force", "--ignore-not-found")
    control_plane.kubectl("delete", "node", name, "--ignore-not-found")


def pod(control_plane: ControlPlane, workspace: Workspace, name: str) -> Any:
    get = ("get", "pod", name, f"--namespace={workspace.metadata.namespace}", "--output=json")
    return json.loads(control_plane.kubectl(*get))


@pytest.mark.cluster
async def test_what_trains_there_is_evicted_once_which_a_job_counts_as_no_failure(
    control_plane: ControlPlane,
    platform: KubernetesPlatform,
    workspace: Workspace,
    pod_on: Making,
) -> None:
    name = pod_on("tune")
    assert await platform.leave_nodes(workspace, but={name}) == {}
    assert await platform.leave_nodes(workspace) == {name: "PreemptionScheduled"}
    found = pod(control_plane, workspace, name)
    assert found["metadata"]["deletionTimestamp"]
    assert condition(found, "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"


@pytest.mark.cluster
async def test_so_is_each_pod_of_a_training_that_several_nodes_share(
    platform: KubernetesPlatform, workspace: Workspace, pod_on: Making
) -> None:
    name = pod_on("tune", number=1)
    shared = workspace.resource.model_copy(update={"count": 2})
    wide = workspace.model_copy(update={"resource": shared})
    assert await platform.leave_nodes(wide) == {name: "PreemptionScheduled"}


@pytest.mark.cluster
async def test_what_only_sends_its_image_goes_on(
    control_plane: ControlPlane,
    platform: KubernetesPlatform,
    workspace: Workspace,
    pod_on: Making,
) -> None:
    name = pod_on("push")
    assert await platform.leave_nodes(workspace) == {}
    assert "deletionTimestamp" not in pod(control_plane, workspace, name)["metadata"]
