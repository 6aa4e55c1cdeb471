"""All of Kaitoflow as processes on loopback: what the chart installs, with the chart's settings.

A real control plane, PostgreSQL, Prefect's server on it, worker and watcher; one node that plays
its kubelet. Everything ends with the context.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from tests.chart.rendering import CRDS, VARIANTS, Object, environment, render
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.cluster.ports import free_port
from tests.cluster.program import Program
from tests.cluster.simulated_node import SimulatedNode, simulated_node
from tests.postgresql import running_postgresql

NODE_LABELS = {"apps": "bench"}
_ROOT = Path(__file__).parents[2]
_READY_WITHIN_S = 120.0
_PYTHON = [sys.executable, "-m"]


@dataclass(frozen=True)
class Installation:
    """Everything runs. programs: by component; processes of the product and of its surroundings."""

    control_plane: ControlPlane
    node: SimulatedNode
    prefect_url: str
    programs: dict[str, Program]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds that each component has used, with its children.

        `bench` is this process, `others` is what this machine did besides: what disturbs.
        """
        used = {name: _cpu_s(program.pid) for name, program in self.programs.items()}
        used["bench"] = time.process_time()
        used["controllers"] = _cpu_s(os.getpid()) - sum(used.values())
        machine = psutil.cpu_times()
        busy_s = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
        return used | {"others": busy_s - sum(used.values())}

    def peak_rss_mb(self, component: str) -> float:
        """The most memory that a component has had resident, in MB as `free --mega` counts."""
        status = Path(f"/proc/{self.programs[component].pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6


@contextmanager
def running_installation(
    folder: Path, *, values: Object | None = None, arm_url: str = ""
) -> Iterator[Installation]:
    """Kaitoflow with CRDs and node, everything ready; logs lie in `folder`.

    Args: values: of the chart. arm_url: where Azure is, if nodes are made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chart = render(VARIANTS["everywhere"] | (values or {}), knows_claims=False)
    with ExitStack() as stack:
        control_plane = stack.enter_context(
            running_control_plane(folder / "control-plane", controllers=True)
        )
        control_plane.define("workspaces.kaito.sh", (CRDS / "kaito.sh_workspaces.yaml").read_text())
        for each in chart:
            if each["kind"] == "CustomResourceDefinition":
                control_plane.define(each["metadata"]["name"], json.dumps(each))
        certificates = control_plane.folder / "certificates"
        node = stack.enter_context(
            simulated_node(
                control_plane.kubeconfig,
                "simulated",
                labels=NODE_LABELS | {"kubernetes.io/hostname": "simulated"},
                certificate=certificates / "apiserver.crt",
                key=certificates / "apiserver.key",
            )
        )
        database = stack.enter_context(running_postgresql())
        programs = {"api-server": control_plane.api_server, "etcd": control_plane.etcd}
        programs["postgresql"] = database.program
        prefect_url = f"http://127.0.0.1:{free_port()}/api"
        client = {"PREFECT_API_URL": prefect_url, "KUBECONFIG": str(control_plane.kubeconfig)}
        client |= {"KAITOFLOW_AZURE_ENDPOINT": arm_url} if arm_url else {}
        for program, ready_url in _kaitoflow(folder, chart, client, database.prefect_settings):
            stack.callback(program.stop)
            program.start()
            program.wait_until(lambda url=ready_url: _answers(url), limit_s=_READY_WITHIN_S)  # type: ignore[misc]
            programs[program.name] = program
        yield Installation(control_plane, node, prefect_url, programs)


def _kaitoflow(
    folder: Path, chart: list[Object], client: dict[str, str], database: dict[str, str]
) -> Iterator[tuple[Program, str]]:
    """Each program in the order of its start, with the URL that answers once it is ready."""
    prefect_url = client["PREFECT_API_URL"]
    port = prefect_url.removesuffix("/api").rpartition(":")[2]
    worker_url = f"http://127.0.0.1:{(worker_port := free_port())}"
    watcher_port = free_port()
    prefect = [*_PYTHON, "flows.prefect_process", "server", "start", "--port", port]
    yield _component("prefect", prefect, folder, chart, database), f"{prefect_url}/health"
    told = {"KAITOFLOW_WORKER_HOST": "127.0.0.1", "KAITOFLOW_WORKER_PORT": str(worker_port)}
    worker = _component("worker", [*_PYTHON, "flows", "worker"], folder, chart, client | told)
    yield worker, f"{worker_url}/healthz"
    told = {"KAITOFLOW_WORKER_URL": worker_url, "KAITOFLOW_WATCHER_PORT": str(watcher_port)}
    told |= {"KAITOFLOW_LEASE_NAMESPACE": "default"}
    watcher = _component("watcher", [*_PYTHON, "flows", "watcher"], folder, chart, client | told)
    yield watcher, f"http://127.0.0.1:{watcher_port}/healthz"


def _component(
    name: str, command: list[str], folder: Path, chart: list[Object], instead: dict[str, str]
) -> Program:
    """The chart's container as a process. instead: of what only a cluster has."""
    home = folder / name
    home.mkdir()
    given = environment(chart, name)
    given = {key: value.replace("/tmp", str(home)) for key, value in given.items()}
    given |= {"PATH": "/usr/bin:/bin"} | instead
    pairs = [f"{key}={value}" for key, value in given.items()]
    return Program(name, ["env", "-i", "-C", _ROOT, *pairs, *command], folder / f"{name}.log")


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False, timeout=5).is_success
    except httpx2.HTTPError:
        return False


def _cpu_s(pid: int | None) -> float:
    process = psutil.Process(pid)
    used = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    used_s = sum(each.user + each.system for each in used)
    return used_s + used[0].children_user + used[0].children_system
