"""Workspaces run by what the chart starts: its commands, its variables, its service accounts.

Real are the API server, the Prefect server behind its password, worker and watcher; they are
processes of this machine in place of pods, and a node plays its kubelet.
"""

import base64
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.builders import tuning_manifest
from tests.chart.conftest import Installation
from tests.chart.rendering import Object, containers, render
from tests.cluster.ports import free_port
from tests.cluster.program import Program
from tests.cluster.simulated_node import simulated_node

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

VALUES: Object = {"database": {"kind": "sqlite"}, "worker": {"replicas": 1}}
LIMIT_S = 120.0


def kubectl_json(installation: Installation, *arguments: str) -> Any:
    return json.loads(installation.control_plane.kubectl(*arguments, "--output=json"))


def variables(installation: Installation, container: Object) -> dict[str, str]:
    """A container's environment, with what it takes from Secrets."""
    told = {}
    for variable in container["env"]:
        if "value" in variable:
            told[variable["name"]] = variable["value"]
            continue
        key = variable["valueFrom"]["secretKeyRef"]
        here = ("--namespace", installation.namespace)
        secret = kubectl_json(installation, "get", "secret", key["name"], *here)
        told[variable["name"]] = base64.b64decode(secret["data"][key["key"]]).decode()
    return told


def program(
    installation: Installation,
    values: Object,
    component: str,
    folder: Path,
    *arguments: str,
    **instead: str,
) -> Program:
    """A component's container as a process; `instead` = what only a cluster has."""
    found = dict(containers(render(values, namespace=installation.namespace)))
    container = found[f"kaitoflow-{component}"]
    home = folder / component
    home.mkdir()
    given = variables(installation, container)
    given = {name: value.replace("/tmp", str(home)) for name, value in given.items()}
    given |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"} | instead
    pairs = [f"{name}={value}" for name, value in given.items()]
    command = ["env", "-i", *pairs, *container["command"], *arguments]
    return Program(component, command, folder / f"{component}.log")


def kubeconfig(installation: Installation, name: str) -> str:
    account = f"kaitoflow-{name}"
    return str(
        installation.control_plane.service_account_kubeconfig(installation.namespace, account)
    )


@contextmanager
def running(installation: Installation, values: Object, folder: Path) -> Iterator[list[Program]]:
    port, worker_port = free_port(), free_port()
    api_url = f"http://127.0.0.1:{port}/api"
    database = f"sqlite+aiosqlite:///{folder}/prefect.db"
    prefect = program(
        *(installation, values, "prefect", folder, "--port", str(port)),
        PREFECT_API_DATABASE_CONNECTION_URL=database,
    )
    worker = program(
        *(installation, values, "worker", folder),
        PREFECT_API_URL=api_url,
        KUBECONFIG=kubeconfig(installation, "worker"),
        KAITOFLOW_WORKER_PORT=str(worker_port),
    )
    watcher = program(
        *(installation, values, "watcher", folder),
        PREFECT_API_URL=api_url,
        KUBECONFIG=kubeconfig(installation, "watcher"),
        KAITOFLOW_WORKER_URL=f"http://127.0.0.1:{worker_port}",
        KAITOFLOW_WATCHER_PORT=str(free_port()),
    )
    certificates = installation.control_plane.folder / "certificates"
    with ExitStack() as stack:
        for each, ready_at in (
            (prefect, f"{api_url}/health"),
            (worker, f"http://127.0.0.1:{worker_port}/healthz"),
            (watcher, ""),
        ):
            stack.callback(each.stop)
            each.start()
            if ready_at:
                each.wait_until(lambda url=ready_at: answers(url), limit_s=LIMIT_S)  # type: ignore[misc]
        stack.enter_context(
            simulated_node(
                installation.control_plane.kubeconfig,
                f"node-{installation.workspaces}",
                labels={"apps": installation.workspaces, "kubernetes.io/hostname": "simulated"},
                certificate=certificates / "apiserver.crt",
                key=certificates / "apiserver.key",
            )
        )
        yield [prefect, worker, watcher]


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False, timeout=5).is_success
    except httpx2.HTTPError:
        return False


def status(installation: Installation, namespace: str) -> Object:
    """What the watcher says of the Workspace in a namespace; empty until it has seen it."""
    here = ("--namespace", namespace)
    found = kubectl_json(installation, "get", "workspace", "tuned", *here)
    said: Object = found.get("status", {})
    return said


def wait_until(holds: Callable[[], bool], programs: list[Program]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline_s, {each.name: each.log.read_text() for each in programs}
        time.sleep(0.5)


@pytest.mark.parametrize("is_namespaced", [False, True], ids=["cluster-wide", "namespaced"])
def test_a_workspace_runs_and_goes_with_the_chart_s_rights(
    installation: Installation, tmp_path: Path, is_namespaced: bool
) -> None:
    named = {"namespaces": [installation.workspaces]} if is_namespaced else {}
    installation.install(VALUES | named)
    kubernetes, here = installation.control_plane, ("--namespace", installation.workspaces)
    login = '--from-literal=.dockerconfigjson={"auths": {}}'
    kind = "--type=kubernetes.io/dockerconfigjson"
    kubernetes.kubectl("create", "secret", "generic", "push", kind, login, *here)
    manifest = tuning_manifest()
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": installation.workspaces}}
    elsewhere = ("--namespace", installation.namespace)
    with running(installation, VALUES | named, tmp_path) as programs:
        kubernetes.kubectl("apply", "--filename=-", *elsewhere, stdin=json.dumps(manifest))
        kubernetes.kubectl("apply", "--filename=-", *here, stdin=json.dumps(manifest))
        wait_until(
            lambda: status(installation, installation.workspaces).get("state") == "Ready", programs
        )
        if not is_namespaced:
            wait_until(lambda: bool(status(installation, installation.namespace)), programs)
        kubernetes.kubectl("delete", "workspace", "tuned", "--timeout=60s", *here)
        kinds = "jobs,statefulsets,services,configmaps"
        left = kubernetes.kubectl("get", kinds, "--output=name", *here).split()
        other = status(installation, installation.namespace)
        said = {each.name: each.log.read_text() for each in programs}
    assert left == ["configmap/kube-root-ca.crt"]
    assert bool(other) != is_namespaced
    assert not [line for text in said.values() for line in text.splitlines() if "forbid" in line]
