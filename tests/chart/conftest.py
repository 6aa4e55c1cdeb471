"""The chart installed by helm on a real API server."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import CHART, RELEASE, Object, helm, hooks, render, served
from tests.cluster.control_plane import ControlPlane
from tests.cluster.simulated_node import SimulatedNode, simulated_node


@dataclass(frozen=True)
class Installation:
    """A release of the chart in a namespace of its own, and a namespace for Workspaces."""

    control_plane: ControlPlane
    namespace: str
    workspaces: str

    def helm(self, *arguments: str, values: Object | None = None) -> str:
        place = ("--namespace", self.namespace)
        stdin = ("--values=-",) if values is not None else ()
        return helm(
            *arguments,
            *place,
            *stdin,
            stdin=json.dumps(values or {}),
            kubeconfig=self.control_plane.kubeconfig,
        )

    def node(self) -> AbstractContextManager[SimulatedNode]:
        """A node for pods that choose it by label, or tolerate every taint."""
        certificates = self.control_plane.folder / "certificates"
        return simulated_node(
            self.control_plane.kubeconfig,
            f"node-{self.workspaces}",
            labels={"apps": self.workspaces, "kubernetes.io/hostname": "simulated"},
            certificate=certificates / "apiserver.crt",
            key=certificates / "apiserver.key",
        )

    def values(self, values: Object | None = None) -> Object:
        """The values, with the namespace of Workspaces where they say nothing of any."""
        return served(values, self.workspaces)

    def render(self, values: Object | None = None) -> list[Object]:
        return render(self.values(values), namespace=self.namespace)

    def install(self, values: Object | None = None) -> None:
        """Install or upgrade; without hooks, whose pods would need a node: see `run_hook`."""
        place = ("upgrade", RELEASE, str(CHART), "--install", "--no-hooks")
        self.helm(*place, values=self.values(values))

    def install_released(self, rendered: Path, folder: Path) -> list[Object]:
        """Install what an earlier chart was rendered to, as its release; its objects."""
        text = rendered.read_text().replace("NAMESPACE", self.namespace)
        (folder / "templates").mkdir(parents=True)
        (folder / "templates" / "all.yaml").write_text(text)
        chart = {"apiVersion": "v2", "name": "kaitoflow", "version": rendered.stem}
        (folder / "Chart.yaml").write_text(json.dumps(chart))
        self.helm("install", RELEASE, str(folder))
        return [each for each in yaml.safe_load_all(text) if each]

    def uninstall(self) -> None:
        self.helm("uninstall", RELEASE, "--ignore-not-found", "--no-hooks")

    def run_hook(
        self, component: str, values: Object | None = None, *, made_by: str = "helm"
    ) -> "subprocess.CompletedProcess[str]":
        """What the hook's pod would do: its Job's command, with its account's rights."""
        objects = hooks(self.render(values), component)
        manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        kubectl = self.control_plane.kubectl
        kubectl("create", "--filename=-", f"--field-manager={made_by}", stdin=manifests)
        try:
            return self._run_job(objects[-1])
        finally:
            kubectl("delete", "--filename=-", "--ignore-not-found", stdin=manifests)

    def _run_job(self, job: Object) -> "subprocess.CompletedProcess[str]":
        spec = job["spec"]["template"]["spec"]
        account = (self.namespace, spec["serviceAccountName"])
        kubeconfig = self.control_plane.service_account_kubeconfig(*account)
        [container] = spec["containers"]
        told = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        name = job["metadata"]["name"]
        return subprocess.run(
            [word.replace("$(JOB)", name) for word in container["command"]],
            env=told | {"KUBECONFIG": str(kubeconfig), "PATH": str(Path(sys.executable).parent)},
            capture_output=True,
            text=True,
            check=False,
        )


def new_namespace(control_plane: ControlPlane, **labels: str) -> str:
    name = f"chart-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    for key, value in labels.items():
        told = f"pod-security.kubernetes.io/{key}={value}"
        control_plane.kubectl("label", "namespace", name, told)
    return name


@pytest.fixture
def installation(control_plane: ControlPlane) -> Iterator[Installation]:
    """Nothing is installed yet; whatever a test installs goes with it."""
    restricted = dict.fromkeys(("enforce", "warn", "audit"), "restricted")
    made = Installation(
        control_plane,
        namespace=new_namespace(control_plane, **restricted),
        workspaces=new_namespace(control_plane),
    )
    yield made
    made.uninstall()
    for name in (made.namespace, made.workspaces):
        control_plane.kubectl("delete", "namespace", name, "--wait=false")
