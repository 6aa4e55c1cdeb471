"""The command line in front of a real API server, and a test that plays the watcher's part."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tests.builders import tuning_manifest
from tests.cluster.control_plane import ControlPlane
from tests.flows.watcher.conftest import installed

__all__ = ["installed"]  # the fixture, for the tests that want the true watcher

WAIT_S = 180
CRD = Path(__file__).parents[3] / "deployments/crds/kaito.sh_workspaces.yaml"
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "push"},
    "type": "kubernetes.io/dockerconfigjson",
    "stringData": {".dockerconfigjson": '{"auths": {}}'},
}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@dataclass
class Started:
    """A command that runs."""

    process: "subprocess.Popen[str]"
    output: Path

    def said(self) -> str:
        return self.output.read_text()

    def ended(self) -> tuple[int, str]:
        return self.process.wait(WAIT_S), self.said()


@dataclass
class Terminal:
    """The command line in front of a namespace of a cluster, and the watcher's part."""

    control_plane: ControlPlane
    namespace: str
    folder: Path
    kubeconfig: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[Started] = field(default_factory=list)

    def env(self) -> dict[str, str]:
        return os.environ | {
            "KAITOFLOW_HOME": str(self.folder / "home"),
            "KAITOFLOW_PLATFORM": "kubernetes",
            "KUBECONFIG": str(self.kubeconfig),
            **self.environment,
        }

    def kaitoflow(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flows", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.env(),
            stdin=subprocess.DEVNULL,
            timeout=WAIT_S,
        )

    def start(self, *arguments: str) -> Started:
        output = self.folder / f"{arguments[0]}.output"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows", *arguments],
                env=self.env() | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                text=True,
            )
        self.started.append(Started(process, output))
        return self.started[-1]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.control_plane.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        created: dict[str, Any] = json.loads(
            self.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(manifest))
        )
        return created

    def object(self, name: str, kind: str = "workspace") -> dict[str, Any]:
        """The object, or {} when there is none."""
        if kind == "workspace":
            return self.control_plane.workspace(self.namespace, name)
        said = self.kubectl("get", kind, name, "--ignore-not-found", "--output=json")
        found: dict[str, Any] = json.loads(said or "{}")
        return found

    def patch(self, kind: str, name: str, patch: dict[str, Any], *, subresource: str = "") -> None:
        part = [f"--subresource={subresource}"] if subresource else []
        self.kubectl("patch", kind, name, "--type=merge", "--patch", json.dumps(patch), *part)

    def write_status(self, name: str, status: WorkspaceStatus) -> None:
        """What the run in the cluster does."""
        patch = {"status": status.model_dump(by_alias=True, mode="json")}
        self.patch("workspace", name, patch, subresource="status")

    def write_file(self, *manifests: dict[str, Any]) -> str:
        path = self.folder / "workspace.yaml"
        path.write_text(yaml.safe_dump_all(manifests))
        return str(path)

    def tuning_manifest(self, name: str = "tuned", **changes: Any) -> dict[str, Any]:
        """A tuning Workspace's manifest, with an image that no other namespace's makes."""
        output = {
            "image": f"registry.example.com/{self.namespace}/{name}:1",
            "imagePushSecret": "push",
        }
        return tuning_manifest(name, **{"output": output} | changes)

    def write_tuning(self, **changes: Any) -> str:
        """A file with a Workspace and the Secret that it names."""
        return self.write_file(self.tuning_manifest(**changes), SECRET)


@contextmanager
def terminal_before(
    control_plane: ControlPlane, namespace: str, folder: Path
) -> Iterator[Terminal]:
    """A terminal whose kubeconfig's context names the namespace; its commands end with it."""
    kubeconfig = folder / "kubeconfig"
    settings = yaml.safe_load(control_plane.kubeconfig.read_text())
    for context in settings["contexts"]:
        context["context"]["namespace"] = namespace
    kubeconfig.write_text(yaml.safe_dump(settings))
    terminal = Terminal(control_plane, namespace, folder, kubeconfig)
    yield terminal
    for command in terminal.started:
        command.process.kill()
        command.process.wait()


@pytest.fixture
def terminal(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in front of a new namespace, in a cluster that knows Workspaces."""
    control_plane.define("workspaces.kaito.sh", CRD.read_text())
    with terminal_before(control_plane, namespace, tmp_path) as made:
        yield made


def running_status(generation: int = 1, *, run: str = "first") -> WorkspaceStatus:
    """The status of a run that has been accepted."""
    status = WorkspaceStatus(state=State.RUNNING, observed_generation=generation, flow_run_id=run)
    status.set_condition(ConditionType.ACCEPTED, status="True", reason="Accepted")
    return status


def failed_status(reason: str, message: str, *, run: str = "first") -> WorkspaceStatus:
    """The status of a run that has failed."""
    status = running_status(run=run)
    status.state = State.FAILED
    status.set_condition(
        ConditionType.WORKSPACE_SUCCEEDED, status="False", reason=reason, message=message
    )
    return status
