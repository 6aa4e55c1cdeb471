"""The CRD on the tests' API server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane

CRD = Path(__file__).resolve().parents[2] / "deployments" / "crds" / "kaito.sh_workspaces.yaml"


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with the Workspace's CRD, which stays: others may use it too."""
    control_plane.define("workspaces.kaito.sh", CRD.read_text())
    return control_plane


@pytest.fixture(scope="module")
def room(cluster: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for the Workspaces of one test module."""
    name = request.module.__name__.rpartition(".")[2].replace("_", "-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def apply(cluster: ControlPlane, room: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Apply a Workspace in the module's namespace; what the API server keeps of it."""

    def applied(manifest: dict[str, Any]) -> dict[str, Any]:
        told = json.dumps(manifest)
        kept = cluster.kubectl(
            "apply", "--namespace", room, "--filename=-", "--output=json", stdin=told
        )
        answer: dict[str, Any] = json.loads(kept)
        return answer

    return applied


@pytest.fixture
def read(cluster: ControlPlane, room: str) -> Callable[..., dict[str, Any]]:
    """Read a Workspace of the module's namespace in one of the versions."""

    def found(name: str, *, version: str = "v1beta1") -> dict[str, Any]:
        resource = f"workspaces.{version}.kaito.sh"
        text = cluster.kubectl("get", resource, name, "--namespace", room, "--output=json")
        answer: dict[str, Any] = json.loads(text)
        return answer

    return found
