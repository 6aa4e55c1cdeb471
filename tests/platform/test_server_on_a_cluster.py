"""The objects of a server: kept while nothing of them changes, paused, and taken away."""

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from tasks.contract.artifacts import Endpoint
from tasks.contract.errors import RunInProgress
from tasks.contract.status import AdapterRun, State, WorkspaceStatus
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.base import Pod
from tasks.platform.kubernetes import KubernetesPlatform
from tests.builders import tuning_manifest
from tests.chart.rendering import CRDS
from tests.cluster.control_plane import ControlPlane
from tests.platform.test_manifests import SERVING, container
from tests.platform.test_ownership_on_a_cluster import platform, reachable

__all__ = ["platform", "reachable"]
pytestmark = pytest.mark.cluster


@pytest.fixture
def workspace(control_plane: ControlPlane, namespace: str) -> Workspace:
    """One that is there: what an owner has left that is gone, controllers remove."""
    control_plane.define("workspaces.kaito.sh", (CRDS / "kaito.sh_workspaces.yaml").read_text())
    manifest = tuning_manifest("web")
    manifest["metadata"]["namespace"] = namespace
    control_plane.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
    get = ("get", "workspace", "web", f"--namespace={namespace}", "--output=json")
    manifest["metadata"]["uid"] = json.loads(control_plane.kubectl(*get))["metadata"]["uid"]
    return parse_workspace(manifest, source="test")


async def apply(platform: KubernetesPlatform, workspace: Workspace, pod: Pod = SERVING) -> None:
    """Have the server's objects; its pod, for which there is no node, is not waited for."""
    endpoint = Endpoint(url="http://web", model="web")
    waiting = platform.ensure_server(workspace, pod, endpoint=endpoint)
    await anext(waiting)
    await waiting.aclose()


def stateful_set(control_plane: ControlPlane, workspace: Workspace) -> dict[str, Any]:
    get = ("get", "statefulset", "web", f"--namespace={workspace.metadata.namespace}")
    found: dict[str, Any] = json.loads(control_plane.kubectl(*get, "--output=json"))
    return found


async def test_a_generation_that_changes_nothing_of_the_server_leaves_its_objects(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    before = stateful_set(control_plane, workspace)
    await apply(platform, workspace.of_generation(2))
    after = stateful_set(control_plane, workspace)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1
    assert after["spec"] == before["spec"]


async def test_one_that_does_is_named_after_its_own_generation(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    other = replace(SERVING, containers=(container("fetch-weights"), container("serve", "b")))
    await apply(platform, workspace.of_generation(2), other)
    template = stateful_set(control_plane, workspace)["spec"]["template"]
    assert template["metadata"]["labels"]["kaitoflow.io/generation"] == "2"


async def test_a_server_that_took_another_adapter_keeps_its_pod_and_is_that_from_then_on(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    before = stateful_set(control_plane, workspace)
    other = replace(SERVING, containers=(container("fetch-weights"), container("serve", "b")))
    await platform.renew_server(workspace, other)
    for _ in range(2):  # and a run that comes later changes nothing of it
        after = stateful_set(control_plane, workspace)
        assert after["spec"] == before["spec"]
        config = control_plane.kubectl(
            "get",
            "configmap",
            "web-inference-1",
            f"--namespace={workspace.metadata.namespace}",
            "--output=yaml",
        )
        assert '"text": "b"' in config
        await apply(platform, workspace, other)


async def test_what_a_server_was_made_from_is_known_whatever_is_asked_for_by_now(
    platform: KubernetesPlatform, workspace: Workspace
) -> None:
    assert await platform.served(workspace) is None
    await apply(platform, workspace)
    served = await platform.served(workspace.of_generation(2))
    assert served
    assert (served.metadata.generation, served.tuning) == (1, workspace.tuning)


async def test_the_key_of_a_server_is_what_its_secret_says(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    assert await platform.admin_key(workspace) == ""
    here = f"--namespace={workspace.metadata.namespace}"
    key = "--from-literal=key=sha256:00 mine"
    control_plane.kubectl("create", "secret", "generic", "web-admin-key", here, key)
    assert await platform.admin_key(workspace) == "mine"


async def test_of_a_run_on_an_adapter_and_a_second_one_only_the_first_begins(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    run = AdapterRun(flow="retune-workspace", flow_run_id="1", since="2026-05-01T12:00:00Z")
    with pytest.raises(RunInProgress, match="the run of its generation 1 has not ended"):
        async with platform.hold_run(workspace, adapter_run=run):
            pass
    ended = WorkspaceStatus(state=State.READY, observed_generation=1)
    await platform.write_status(workspace, ended)
    async with platform.hold_run(workspace, adapter_run=run):
        other = run.model_copy(update={"flow_run_id": "2"})
        with pytest.raises(RunInProgress, match="retune-workspace is at work on it since 2026"):
            await platform._begun(workspace, other)
        with pytest.raises(RunInProgress, match="cancel it in Prefect's UI"):
            await platform._begun(workspace, None)
        await platform._begun(workspace, run)  # after a worker that was lost
    assert (await platform.read_status(workspace)).adapter_run is None


async def test_a_server_that_pauses_keeps_all_but_its_pod(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    before = stateful_set(control_plane, workspace)["spec"]
    await platform.pause_server(workspace)
    assert stateful_set(control_plane, workspace)["spec"] == before | {"replicas": 0}
    await platform.resume_server(workspace)
    assert stateful_set(control_plane, workspace)["spec"] == before


async def test_it_is_known_how_many_gpus_a_server_has(
    platform: KubernetesPlatform, workspace: Workspace
) -> None:
    assert await platform.server_gpus(workspace) == 0
    await apply(platform, workspace, replace(SERVING, gpus=2))
    assert await platform.server_gpus(workspace) == 2


async def test_a_server_that_is_ended_leaves_nothing_that_leads_to_it(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    await platform.end_server(workspace)
    namespace = f"--namespace={workspace.metadata.namespace}"
    left = control_plane.kubectl("get", "statefulsets,services", namespace, "--output=name")
    assert left == ""


def names(control_plane: ControlPlane, workspace: Workspace, kinds: str) -> list[str]:
    get = ("get", kinds, f"--namespace={workspace.metadata.namespace}", "--output=name")
    return sorted(control_plane.kubectl(*get, "--selector=kaito.sh/workspace=web").split())


LEADS_TO_IT = "services,statefulsets,configmaps"


async def test_what_is_deleted_of_a_server_is_restored_from_what_is_kept_of_it(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    before = stateful_set(control_plane, workspace)["spec"]
    there = names(control_plane, workspace, LEADS_TO_IT)
    here = f"--namespace={workspace.metadata.namespace}"
    control_plane.kubectl("delete", here, *there)
    newer = workspace.of_generation(2)
    assert await platform.restore_server(newer) == workspace.redacted()
    assert names(control_plane, workspace, LEADS_TO_IT) == there
    assert stateful_set(control_plane, workspace)["spec"] == before


async def test_a_server_of_which_nothing_is_kept_is_left_as_it_is(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    here = f"--namespace={workspace.metadata.namespace}"
    control_plane.kubectl("delete", here, "controllerrevisions", "--all")
    control_plane.kubectl("delete", here, "service", "web")
    assert await platform.restore_server(workspace) is None
    assert "service/web" not in names(control_plane, workspace, "services")


async def test_of_two_servers_only_the_later_is_kept(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    await apply(platform, workspace)
    await apply(platform, workspace)
    other = replace(SERVING, containers=(container("fetch-weights"), container("serve", "b")))
    await apply(platform, workspace.of_generation(2), other)
    revisions = names(control_plane, workspace, "controllerrevisions")  # a StatefulSet's own, too
    [kept] = [each for each in revisions if "/web-served-" in each]
    assert "/web-served-2-" in kept
