"""Fixtures of the tests' control plane: one for the session, one namespace for each test."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.build import tool
from tests.cluster.control_plane import ControlPlane, running_control_plane

_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build ahead of the tests, whose time-outs a first build would exceed."""
    wanted = any("control_plane" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        _cannot_build()


def _cannot_build() -> str | None:
    """None once every program is there, else why not."""
    try:
        for name in _PROGRAMS:
            tool(name)
    except RuntimeError as refused:
        return str(refused)
    return None


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Kubernetes API server with its controllers, and no node; shared: use `namespace`."""
    if reason := _cannot_build():
        pytest.skip(f"a Kubernetes control plane cannot be built here: {reason}")
    folder = tmp_path_factory.mktemp("control-plane")
    with running_control_plane(folder, controllers=True) as running:
        yield running


@pytest.fixture
def kubeconfig(control_plane: ControlPlane) -> Path:
    """The administrator's kubeconfig."""
    return control_plane.kubeconfig


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new namespace with its default ServiceAccount; deleted, with all in it, at the end."""
    name = f"test-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    control_plane.kubectl(
        "wait", "--for=create", "serviceaccount/default", "--namespace", name, "--timeout=60s"
    )
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
