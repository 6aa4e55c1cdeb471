"""What is not a Workspace's own is neither changed nor deleted by its run."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client, config

from tasks.contract.artifacts import Endpoint
from tasks.contract.errors import NameTaken
from tasks.contract.steps import INFERENCE, TUNING
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.base import Container, Pod
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.manifests.labels import workspace_labels
from tasks.settings import Settings
from tests.builders import tuning_manifest
from tests.chart.rendering import CRDS
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

POD = Pod(name=INFERENCE, containers=(), template={"spec": {"containers": []}})


async def close(platform: KubernetesPlatform) -> None:
    await platform.close()
    await asyncio.sleep(0.25)  # aiohttp's TLS connections are closed a little later


@pytest.fixture
def reachable(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Platforms speak to the tests' API server."""

    async def connect(_context: str | None, *, patience_s: float) -> KubeApi:
        settings = client.Configuration()
        # The client library reads KUBECONFIG once, when it is imported.
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            str(kubeconfig), client_configuration=settings
        )
        return KubeApi(client.ApiClient(settings), patience_s=patience_s)

    monkeypatch.setattr("tasks.platform.kubernetes.connect", connect)


@pytest.fixture
async def platform(reachable: None) -> AsyncIterator[KubernetesPlatform]:
    platform = KubernetesPlatform(Settings())
    yield platform
    await close(platform)


@pytest.fixture
def workspace(namespace: str) -> Workspace:
    manifest = tuning_manifest("web")
    manifest["metadata"] |= {"namespace": namespace, "uid": "11111111-2222-3333-4444-555555555555"}
    return parse_workspace(manifest, source="test")


def foreign_service(kubernetes: ControlPlane, workspace: Workspace, **labels: str) -> Any:
    """A Service that a person made by hand, with the Workspace's name."""
    namespace = f"--namespace={workspace.metadata.namespace}"
    kubernetes.kubectl("create", "service", "clusterip", "web", "--tcp=8080", namespace)
    for key, value in labels.items():
        kubernetes.kubectl("label", "service", "web", f"{key}={value}", namespace)
    return service(kubernetes, workspace)


def service(kubernetes: ControlPlane, workspace: Workspace) -> Any:
    get = ("get", "service", "web", f"--namespace={workspace.metadata.namespace}")
    return json.loads(kubernetes.kubectl(*get, "--output=json"))


async def test_a_service_of_somebody_else_stays_and_the_server_is_refused(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    before = foreign_service(control_plane, workspace)
    endpoint = Endpoint(url="http://web", model="web")
    with pytest.raises(NameTaken, match="Service web was to be made"):
        async for _ in platform.ensure_server(workspace, POD, endpoint=endpoint):
            pass
    assert service(control_plane, workspace) == before


async def test_the_look_before_anything_is_made_finds_names_that_are_taken(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    assert (await platform.look_around(workspace, push=True, port=None)).taken == ()
    foreign_service(control_plane, workspace)
    world = await platform.look_around(workspace, push=True, port=None)
    assert world.taken == (("Service", "web"),)


async def test_what_carries_our_labels_alone_is_not_deleted(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    before = foreign_service(control_plane, workspace, **workspace_labels(workspace))
    await platform.delete(workspace)
    assert service(control_plane, workspace) == before


async def test_another_object_of_a_deleted_ones_name_stays(
    control_plane: ControlPlane, platform: KubernetesPlatform, workspace: Workspace
) -> None:
    before = foreign_service(control_plane, workspace)
    api, namespace = await platform.api(), workspace.metadata.namespace
    assert not await api.delete("Service", namespace, "web", uid="another")
    assert service(control_plane, workspace) == before
    assert await api.delete("Service", namespace, "web", uid=before["metadata"]["uid"])


@dataclass(frozen=True)
class Told:
    """What a toy program is told."""

    text: str


def toy(name: str, told: str = "") -> Container:
    """A container whose program is never run."""
    return Container(name=name, program="toy", config=Told(told))


async def begin(workspace: Workspace, *, image: str, told: str) -> None:
    """Have the tuning pod there, as the worker of one version makes it."""
    tune = toy("tune", told)
    platform = KubernetesPlatform(Settings(pod_image=image))
    lines = platform.follow(workspace, Pod(name=TUNING, containers=(tune,)), tune)
    await anext(lines)  # what it waits for: there is no node
    await lines.aclose()
    await close(platform)


def applied(control_plane: ControlPlane, namespace: str) -> Workspace:
    """A Workspace that the API server knows."""
    definition = (CRDS / "kaito.sh_workspaces.yaml").read_text()
    control_plane.define("workspaces.kaito.sh", definition)
    manifest = tuning_manifest("web")
    manifest["metadata"] |= {"namespace": namespace}
    made = control_plane.kubectl(
        "create", "--filename=-", "--output=json", stdin=json.dumps(manifest)
    )
    return parse_workspace(json.loads(made), source="test")


async def test_a_job_that_another_version_began_stays_with_what_its_pods_are_told(
    control_plane: ControlPlane,
    reachable: None,
    namespace: str,
) -> None:
    workspace = applied(control_plane, namespace)
    await begin(workspace, image="example.com/pod:1", told="old")
    await begin(workspace, image="example.com/pod:2", told="new")
    get = ("get", "--output=json", f"--namespace={namespace}")
    [job] = json.loads(control_plane.kubectl(*get, "jobs"))["items"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "example.com/pod:1"
    told = json.loads(control_plane.kubectl(*get, "configmap", "web-tuning-1"))["data"]
    assert json.loads(told["tune.json"]) == {"text": "old"}


async def test_what_a_jobs_pods_are_told_is_there_again_once_somebody_has_deleted_it(
    control_plane: ControlPlane, reachable: None, namespace: str
) -> None:
    workspace, here = applied(control_plane, namespace), f"--namespace={namespace}"
    await begin(workspace, image="example.com/pod:1", told="same")
    control_plane.kubectl("delete", "configmap", "web-tuning-1", here)
    await begin(workspace, image="example.com/pod:1", told="same")
    found = control_plane.kubectl("get", "configmap", "web-tuning-1", here, "--output=json")
    assert json.loads(json.loads(found)["data"]["tune.json"]) == {"text": "same"}


async def test_a_job_that_is_done_and_whose_pod_has_gone_is_made_anew(
    control_plane: ControlPlane, reachable: None, namespace: str
) -> None:
    workspace, here = applied(control_plane, namespace), f"--namespace={namespace}"
    await begin(workspace, image="example.com/pod:1", told="same")
    [job] = control_plane.kubectl("get", "jobs", here, "--output=name").split()
    uid = ("get", job, here, "--ignore-not-found", "--output=jsonpath={.metadata.uid}")
    first = control_plane.kubectl(*uid)
    pod = ("pod", "--selector=kaito.sh/workspace=web", here)
    control_plane.kubectl("wait", *pod, "--for=create", "--timeout=30s")
    [name] = control_plane.kubectl("get", *pod, "--output=name").split()
    succeeded = (
        "--subresource=status",
        "--type=merge",
        '--patch={"status": {"phase": "Succeeded"}}',
    )
    control_plane.kubectl("patch", name, here, *succeeded)
    control_plane.kubectl("wait", job, here, "--for=condition=Complete", "--timeout=30s")
    control_plane.kubectl("delete", name, here, "--force")
    tune, platform = toy("tune", "same"), KubernetesPlatform(Settings())
    lines = platform.follow(workspace, Pod(name=TUNING, containers=(tune,)), tune)
    async with asyncio.timeout(60), asyncio.TaskGroup() as beside:
        following = beside.create_task(exhaust(lines))
        while await asyncio.to_thread(control_plane.kubectl, *uid) in ("", first):
            await asyncio.sleep(0.5)
        following.cancel()
    await close(platform)


async def exhaust(lines: AsyncIterator[object]) -> None:
    """Read to the end."""
    async for _ in lines:
        pass


async def test_a_service_whose_ports_somebody_has_changed_is_as_it_was(
    control_plane: ControlPlane, reachable: None, namespace: str
) -> None:
    workspace = applied(control_plane, namespace)
    await begin_server(workspace)
    before = service(control_plane, workspace)["spec"]["ports"]
    changed = '[{"op": "replace", "path": "/spec/ports/0/port", "value": 81}]'
    patch = ("patch", "service", "web", f"--namespace={namespace}", "--type=json")
    control_plane.kubectl(*patch, f"--patch={changed}")
    await begin_server(workspace)
    assert service(control_plane, workspace)["spec"]["ports"] == before


async def begin_server(workspace: Workspace) -> None:
    """Have the server's objects there, as a worker that has just started makes them."""
    platform = KubernetesPlatform(Settings())
    endpoint = Endpoint(url="http://web", model="web")
    pod = Pod(name=INFERENCE, containers=(toy("serve"),))
    lines = platform.ensure_server(workspace, pod, endpoint=endpoint)
    await anext(lines)  # what it waits for: there is no node
    await lines.aclose()
    await close(platform)
