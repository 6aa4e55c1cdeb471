"""A cluster with Kaitoflow on it: real API server, Prefect server, worker and watcher; one node
that plays its kubelet."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import tuning_manifest
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.cluster.simulated_node import SimulatedNode, simulated_node

ROOT = Path(__file__).parents[3]
LIMIT_S = 90.0


@dataclass
class Installation:
    """Kaitoflow on a cluster; its two programs may be killed and started again."""

    control_plane: ControlPlane
    node: SimulatedNode
    folder: Path
    prefect_api: str
    programs: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, program: str, *arguments: str, **environment: str) -> None:
        """Start `worker` or `watcher` under a name, which is the program's own by default."""
        name = environment.pop("name", program)
        ours = {
            "KAITOFLOW_PLATFORM": "kubernetes",
            "KUBECONFIG": str(self.control_plane.kubeconfig),
            "KAITOFLOW_HOME": str(self.folder),
            "KAITOFLOW_RESYNC_S": "3",
            "KAITOFLOW_BACKOFF_S": "1",
            "KAITOFLOW_LEASE_S": "6",
            "KAITOFLOW_WATCHER_PORT": "0",
            "KAITOFLOW_NODE_READY_TIMEOUT_S": "30",
            "KAITOFLOW_WORKER_PORT": "0",
            "KAITOFLOW_WORKER_POLL_S": "1",
            "PREFECT_API_URL": self.prefect_api,
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.programs[name] = subprocess.Popen(
                [sys.executable, "-m", "flows", program, *arguments],
                env=os.environ | ours | environment,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.programs.pop(name)
        process.send_signal(number)
        process.wait(60)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.control_plane.kubectl(*arguments, stdin=stdin)

    def apply(self, manifest: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))

    def get(self, kind: str, namespace: str, name: str = "") -> dict[str, Any]:
        arguments = ["get", kind, *([name] if name else []), "-n", namespace, "-o", "json"]
        found: dict[str, Any] = json.loads(self.kubectl(*arguments))
        return found

    def status(self, namespace: str, name: str = "tuned") -> dict[str, Any]:
        found: dict[str, Any] = self.get("workspace", namespace, name).get("status", {})
        return found

    def wait_for(
        self,
        namespace: str,
        condition: Callable[[dict[str, Any]], bool],
        *,
        name: str = "tuned",
        what: str = "the status",
    ) -> dict[str, Any]:
        """The status once it is as wanted."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            status = self.status(namespace, name)
            if condition(status):
                return status
            assert time.monotonic() < deadline, f"waited for {what}; it is {json.dumps(status)}"
            time.sleep(0.2)


def true_conditions(status: dict[str, Any]) -> set[str]:
    """The condition types that are True."""
    return {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}


def workspace_manifest(namespace: str, name: str = "tuned", **changes: Any) -> dict[str, Any]:
    """A tuning Workspace whose objects are all there."""
    manifest = tuning_manifest(name, **changes)
    manifest["metadata"]["namespace"] = namespace
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": "tuning"}}
    return manifest


@pytest.fixture(scope="module")
def installed(
    control_plane: ControlPlane,  # builds the programs, or skips
    prefect_home: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Kaitoflow installed: CRD, node, worker and watcher.

    On a control plane of its own: this watcher would take other tests' Workspaces for its own.
    """
    folder = tmp_path_factory.mktemp("cluster")
    with running_control_plane(folder, controllers=True) as own:
        yield from _install(own, prefect_home, tmp_path_factory.mktemp("kaitoflow"))


def _install(
    control_plane: ControlPlane, prefect_home: str, folder: Path
) -> Iterator[Installation]:
    control_plane.kubectl("apply", "-f", ROOT / "deployments/crds/kaito.sh_workspaces.yaml")
    control_plane.kubectl(
        "wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=60s"
    )
    certificates = control_plane.folder / "certificates"
    with simulated_node(
        control_plane.kubeconfig,
        "simulated",
        labels={"apps": "tuning", "kubernetes.io/hostname": "simulated"},
        certificate=certificates / "apiserver.crt",
        key=certificates / "apiserver.key",
    ) as node:
        installation = Installation(control_plane, node, folder, prefect_home)
        installation.start("worker", "--name", "first")
        installation.start("watcher")
        yield installation
        for name in list(installation.programs):
            installation.kill(name, signal.SIGTERM)


@pytest.fixture
def namespace(installed: Installation) -> Iterator[str]:
    """A new namespace on that control plane."""
    name = f"test-{secrets.token_hex(4)}"
    installed.kubectl("create", "namespace", name)
    yield name
    installed.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def workspace_namespace(installed: Installation, namespace: str) -> str:
    """A namespace with the Secret that the Workspaces name."""
    config = '{"auths": {"registry.example.com": {"auth": "dTpw"}}}'
    installed.kubectl(
        *("create", "secret", "generic", "push", "-n", namespace),
        *("--type=kubernetes.io/dockerconfigjson", f"--from-literal=.dockerconfigjson={config}"),
    )
    return namespace
