"""A cluster with Kaitoflow on it: real API server, Prefect server, worker and watcher; one node
that plays its kubelet."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chart.rendering import CRDS
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.cluster.simulated_node import SCRIPTS, simulated_node
from tests.flows.watcher.installation import Installation

__all__ = ["Installation"]


@contextmanager
def installation(folder: Path, prefect_api: str) -> Iterator[Installation]:
    """CRD, service accounts and node, on a control plane of its own; no program runs yet.

    Its watcher would take other tests' Workspaces for its own.
    """
    with running_control_plane(folder / "control-plane", controllers=True) as control_plane:
        control_plane.define("workspaces.kaito.sh", (CRDS / "kaito.sh_workspaces.yaml").read_text())
        certificates = control_plane.folder / "certificates"
        with simulated_node(
            control_plane.kubeconfig,
            "simulated",
            labels={"apps": "tuning", "kubernetes.io/hostname": "simulated"},
            certificate=certificates / "apiserver.crt",
            key=certificates / "apiserver.key",
        ) as node:
            made = Installation(control_plane, node, folder, prefect_api)
            made.give_rights()
            try:
                yield made
            finally:
                made.stop()


@pytest.fixture(scope="module")
def installed(
    control_plane: ControlPlane,  # builds the programs, or skips
    prefect_home: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Kaitoflow installed, with worker and watcher."""
    with installation(tmp_path_factory.mktemp("kaitoflow"), prefect_home) as made:
        made.start_worker()
        made.start("watcher")
        yield made


def new_namespace(installed: Installation) -> str:
    """A namespace with the Secret that the Workspaces name."""
    name = f"test-{secrets.token_hex(4)}"
    installed.kubectl("create", "namespace", name)
    config = '{"auths": {"registry.example.com": {"auth": "dTpw"}}}'
    installed.kubectl(
        *("create", "secret", "generic", "push", "-n", name),
        *("--type=kubernetes.io/dockerconfigjson", f"--from-literal=.dockerconfigjson={config}"),
    )
    return name


@pytest.fixture
def workspace_namespace(installed: Installation) -> Iterator[str]:
    """A namespace for Workspaces; after the test the node is as it was."""
    name = new_namespace(installed)
    yield name
    installed.node.held.clear()
    installed.node.scripts = dict(SCRIPTS)
    installed.node.ending_s = 0
    installed.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(installed: Installation, workspace_namespace: str) -> str:
    """A namespace without that Secret."""
    installed.kubectl("delete", "secret", "push", "-n", workspace_namespace)
    return workspace_namespace
