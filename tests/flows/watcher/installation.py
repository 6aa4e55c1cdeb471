"""Kaitoflow on a cluster: its two programs, with the rights that the chart gives them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import yaml

from tests.builders import tuning_manifest
from tests.chart.rendering import NAMESPACE, VARIANTS, render
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.ports import free_port
from tests.cluster.program import Program
from tests.cluster.simulated_node import DIGEST, SimulatedNode
from tests.flows.prefect import ask

LIMIT_S = 240.0
ALL = {
    "Accepted",
    "NodesReady",
    "ResourceReady",
    "JobStarted",
    "InferenceReady",
    "WorkspaceSucceeded",
}
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
_RIGHTS = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
_SETTINGS = {
    "KAITOFLOW_PLATFORM": "kubernetes",
    "KAITOFLOW_LEASE_NAMESPACE": NAMESPACE,
    "KAITOFLOW_RESYNC_S": "3",
    "KAITOFLOW_BACKOFF_S": "1",
    "KAITOFLOW_LEASE_S": "6",
    "KAITOFLOW_NODE_READY_TIMEOUT_S": "120",
    "KAITOFLOW_WORKER_PORT": "0",
    "KAITOFLOW_WORKER_POLL_S": "1",
    "KAITOFLOW_WORKER_WATCH_S": "1",
    "KAITOFLOW_WORKER_HEARTBEAT_S": "1",
}
Found = TypeVar("Found")


def wait_until(look: Callable[[], Found | None], what: str) -> Found:
    """What there is to be seen sooner or later."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s for {what}"
        time.sleep(0.1)
    return found


@dataclass
class Installation:
    """Kaitoflow on a cluster; its programs may be killed and started again."""

    control_plane: ControlPlane
    node: SimulatedNode
    folder: Path
    prefect_api: str
    settings: dict[str, str] = field(default_factory=dict)
    """Of both programs, beside those that all tests have."""
    module: str = "flows"
    """That both are run from."""
    urls: dict[str, str] = field(default_factory=dict)
    """Where a program finds the API server, if not where it is."""
    programs: dict[str, Program] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)

    def give_rights(self) -> None:
        """Make the chart's service accounts, with their roles."""
        self.kubectl("create", "namespace", NAMESPACE)
        chart = render(VARIANTS["everywhere"])
        objects = [each for each in chart if each["kind"] in _RIGHTS]
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def start(self, component: str, *arguments: str, name: str = "", **instead: str) -> None:
        """Start `worker` or `watcher`, by default under its own name, with other settings."""
        settings = _SETTINGS | {
            "KUBECONFIG": str(self.kubeconfig(component)),
            "KAITOFLOW_HOME": str(self.folder),
            "PREFECT_API_URL": self.prefect_api,
            "KAITOFLOW_WATCHER_PORT": str(free_port()),
        }
        settings |= self.settings | instead
        told = [f"{key}={value}" for key, value in settings.items()]
        name = name or component
        command = ["env", *told, sys.executable, "-m", self.module, component, *arguments]
        self.programs[name] = Program(name, command, self.folder / f"{name}.log")
        self.ports[name] = settings["KAITOFLOW_WATCHER_PORT"]
        self.programs[name].start()

    def start_worker(self, **instead: str) -> None:
        """The one worker, always by the same name, as the pod of a StatefulSet has it."""
        self.start("worker", "--name", "first", **instead)

    def kill(self, name: str) -> None:
        self.programs.pop(name).kill()

    def crash(self, name: str) -> None:
        """Kill a program at whatever it does, and start it again as a kubelet does."""
        self.programs[name].kill()
        self.programs[name].start()

    def stop(self) -> None:
        """Ask all programs to end."""
        for program in self.programs.values():
            program.stop()
        self.programs.clear()

    def rename(self, name: str, new_name: str) -> None:
        """Let a program take the place of one that is no more."""
        self.programs[new_name], self.ports[new_name] = self.programs.pop(name), self.ports[name]

    def revive(self) -> None:
        """Start again what ended by itself, as a kubelet does."""
        for program in self.programs.values():
            if program.pid is None:
                program.start()

    def health(self, name: str = "watcher") -> tuple[int, dict[str, bool]]:
        """What a watcher's /healthz answers; 0 while it does not."""
        try:
            answer = httpx2.get(f"http://127.0.0.1:{self.ports[name]}/healthz", trust_env=False)
        except httpx2.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    def metrics(self, name: str) -> str:
        """What a program tells Prometheus."""
        port = self.ports[name]
        if name == "worker":
            told = (self.folder / f"{name}.log").read_text()
            [*_, port] = re.findall(r"started, listening on [^:]+:(\d+)", told)
        return httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text

    def leaks(self) -> list[str]:
        """What `kaitoflow leaks` lists with the worker's rights and settings, the youngest too."""
        told = self.settings | {
            "KUBECONFIG": str(self.kubeconfig("worker")),
            "KAITOFLOW_PLATFORM": "kubernetes",
            "KAITOFLOW_HOME": str(self.folder),
            "KAITOFLOW_GARBAGE_GRACE_S": "0",
            "PREFECT_API_URL": self.prefect_api,
        }
        answer = subprocess.run(
            [sys.executable, "-m", "flows", "leaks", "--output", "json"],
            env=os.environ | told,
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(answer.stdout or "{}").get("leaks")
        if found is None:
            return [f"leaks could not be told: {answer.stderr}"]
        return [f"{each['kind']} {each['name']}" for each in found]

    def kubeconfig(self, component: str) -> Path:
        """That of the component's service account."""
        account = f"kaitoflow-{component}"
        theirs = self.control_plane.folder / f"{NAMESPACE}.{account}.kubeconfig"
        if not theirs.exists():
            self.control_plane.service_account_kubeconfig(NAMESPACE, account)
        if component not in self.urls:
            return theirs
        token = yaml.safe_load(theirs.read_text())["users"][0]["user"]["token"]
        return write_kubeconfig(
            self.folder / f"{component}.kubeconfig",
            server=self.urls[component],
            ca_file=self.control_plane.ca_file,
            token=token,
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.control_plane.kubectl(*arguments, stdin=stdin)

    def apply(self, manifest: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))

    def get(self, kind: str, namespace: str, name: str = "") -> dict[str, Any]:
        arguments = ["get", kind, *([name] if name else []), "-n", namespace, "-o", "json"]
        found: dict[str, Any] = json.loads(self.kubectl(*arguments))
        return found

    def names(self, kinds: str, namespace: str) -> list[str]:
        """Of all objects of these kinds, as kind/name."""
        return self.kubectl("get", kinds, "-n", namespace, "-o", "name").split()

    def status(self, namespace: str, name: str = "tuned") -> dict[str, Any]:
        told: dict[str, Any] = self.control_plane.workspace(namespace, name).get("status", {})
        return told

    def wait_for(
        self,
        namespace: str,
        condition: Callable[[dict[str, Any]], bool],
        *,
        name: str = "tuned",
        what: str = "the status",
        limit_s: float = LIMIT_S,
    ) -> dict[str, Any]:
        """The status once it is as wanted."""
        deadline = time.monotonic() + limit_s
        while True:
            status = self.status(namespace, name)
            if condition(status):
                return status
            assert time.monotonic() < deadline, f"waited for {what}; it is {json.dumps(status)}"
            self.revive()
            time.sleep(0.2)

    def wait_until_ready(
        self, namespace: str, *, name: str = "tuned", limit_s: float = LIMIT_S
    ) -> dict[str, Any]:
        def is_ready(status: dict[str, Any]) -> bool:
            return status.get("state") == "Ready"

        return self.wait_for(namespace, is_ready, name=name, what="state Ready", limit_s=limit_s)

    def wait_until_started(self, namespace: str, container: str, times: int = 1) -> None:
        wait_until(
            lambda: self.node.started[namespace, container] >= times,
            f"{container} to start {times} times",
        )

    def uid(self, namespace: str) -> str:
        return str(self.control_plane.workspace(namespace, "tuned")["metadata"]["uid"])

    def runs(self, uid: str) -> list[dict[str, Any]]:
        """All runs of a Workspace, of both flows, that Prefect knows."""
        body = {"flow_runs": {"tags": {"all_": [f"workspace-uid:{uid}"]}}}
        answer = ask("POST", f"{self.prefect_api}/flow_runs/filter", json=body)
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    def expect_one_run(
        self, namespace: str, *, limit_s: float = LIMIT_S, most_runs: int = 1
    ) -> None:
        """A Workspace was tuned once, published once and is served, whatever happened meanwhile."""
        status = self.wait_until_ready(namespace, limit_s=limit_s)
        assert true_conditions(status) == ALL
        assert status["image"]["digest"] == DIGEST
        assert [each["digest"] for each in status["history"]] == [DIGEST]
        assert self.names("jobs", namespace) == ["job.batch/tuned-tune-1"]
        assert self.names("statefulsets", namespace) == ["statefulset.apps/tuned"]
        once = ("fetch-dataset", "tune", "push-image", "pull-tuned", "serve")
        assert {name: self.node.started[namespace, name] for name in once} == dict.fromkeys(once, 1)
        assert 1 <= len(self.runs(self.uid(namespace))) <= most_runs


def true_conditions(status: dict[str, Any]) -> set[str]:
    """The condition types that are True."""
    return {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}


def workspace_manifest(namespace: str, name: str = "tuned", **changes: Any) -> dict[str, Any]:
    """A tuning Workspace whose objects are all there, with an image of its own."""
    output = {"image": f"registry.example.com/{namespace}/{name}:1", "imagePushSecret": "push"}
    manifest = tuning_manifest(name, **{"output": output} | changes)
    manifest["metadata"]["namespace"] = namespace
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": "tuning"}}
    return manifest
