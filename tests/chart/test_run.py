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
from tests.chart.rendering import CRDS, RELEASED, Object, containers
from tests.cluster.ports import free_port
from tests.cluster.program import Program

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
    objects: list[Object],
    component: str,
    folder: Path,
    *arguments: str,
    **instead: str,
) -> Program:
    """A component's container as a process; `instead` = what only a cluster has."""
    container = dict(containers(objects))[f"kaitoflow-{component}"]
    home = folder / component
    home.mkdir(exist_ok=True)
    given = variables(installation, container)
    given = {name: value.replace("/tmp", str(home)) for name, value in given.items()}
    # A file takes the place of the database.
    given = {n: value for n, value in given.items() if not n.startswith("PREFECT_SERVER_DATABASE")}
    given |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"} | instead
    pairs = [f"{name}={value}" for name, value in given.items()]
    command = ["env", "-i", *pairs, *container["command"], *arguments]
    return Program(component, command, folder / f"{component}.log")


@contextmanager
def running(
    installation: Installation, objects: list[Object], folder: Path, *, as_admin: bool = False
) -> Iterator[list[Program]]:
    """What a chart was rendered to as processes, with Prefect's history in the folder.

    Args: as_admin: instead of as the chart's accounts.
    """

    def kubeconfig(name: str) -> str:
        kubernetes, account = installation.control_plane, f"kaitoflow-{name}"
        if as_admin:
            return str(kubernetes.kubeconfig)
        return str(kubernetes.service_account_kubeconfig(installation.namespace, account))

    port, worker_port = free_port(), free_port()
    api_url = f"http://127.0.0.1:{port}/api"
    database = f"sqlite+aiosqlite:///{folder}/prefect.db"
    prefect = program(
        *(installation, objects, "prefect", folder, "--port", str(port)),
        PREFECT_API_DATABASE_CONNECTION_URL=database,
    )
    worker = program(
        *(installation, objects, "worker", folder),
        PREFECT_API_URL=api_url,
        KUBECONFIG=kubeconfig("worker"),
        KAITOFLOW_WORKER_PORT=str(worker_port),
    )
    watcher = program(
        *(installation, objects, "watcher", folder),
        PREFECT_API_URL=api_url,
        KUBECONFIG=kubeconfig("watcher"),
        KAITOFLOW_WORKER_URL=f"http://127.0.0.1:{worker_port}",
        KAITOFLOW_WATCHER_PORT=str(free_port()),
    )
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
        yield [prefect, worker, watcher]


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False, timeout=5).is_success
    except httpx2.HTTPError:
        return False


def status(installation: Installation, namespace: str, name: str = "tuned") -> Object:
    """What the watcher says of the Workspace in a namespace; empty until it has seen it."""
    said: Object = installation.control_plane.workspace(namespace, name).get("status", {})
    return said


def is_held(installation: Installation, namespace: str) -> bool:
    """Whether a watcher has taken the Workspace in a namespace for its own."""
    found = installation.control_plane.workspace(namespace, "tuned")
    return bool(found["metadata"].get("finalizers"))


def wait_until(holds: Callable[[], bool], programs: list[Program]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline_s, {each.name: each.log.read_text() for each in programs}
        time.sleep(0.5)


def workspace(installation: Installation, name: str = "tuned", *, maker: str = "") -> Object:
    """A Workspace for the node, and the Secret that it names.

    Args: maker: who makes its image; empty = a Workspace of the namespace that has the Secret.
    """
    login = '--from-literal=.dockerconfigjson={"auths": {}}'
    secret = kubectl_json(
        installation,
        *("create", "secret", "generic", "push", "--type=kubernetes.io/dockerconfigjson", login),
        *("--namespace", installation.workspaces, "--dry-run=client"),
    )
    installation.control_plane.kubectl("apply", "--filename=-", stdin=json.dumps(secret))
    image = f"registry.example.com/{maker or installation.workspaces}/{name}:1"
    output = {"image": image, "imagePushSecret": "push"}
    manifest = tuning_manifest(name, output=output)
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": installation.workspaces}}
    return manifest


@pytest.mark.parametrize("is_everywhere", [True, False], ids=["everywhere", "namespaced"])
def test_a_workspace_runs_and_goes_with_the_chart_s_rights(
    installation: Installation, tmp_path: Path, is_everywhere: bool
) -> None:
    named = {"allNamespaces": True} if is_everywhere else {}
    assert installation.run_hook("passwords", VALUES | named).returncode == 0
    installation.install(VALUES | named)
    kubernetes, here = installation.control_plane, ("--namespace", installation.workspaces)
    manifest = json.dumps(workspace(installation))
    other_manifest = json.dumps(workspace(installation, maker=installation.namespace))
    elsewhere = ("--namespace", installation.namespace)
    objects = installation.render(VALUES | named)
    with installation.node(), running(installation, objects, tmp_path) as programs:
        kubernetes.kubectl("apply", "--filename=-", *elsewhere, stdin=other_manifest)
        kubernetes.kubectl("apply", "--filename=-", *here, stdin=manifest)
        wait_until(
            lambda: status(installation, installation.workspaces).get("state") == "Ready", programs
        )
        if is_everywhere:
            wait_until(lambda: is_held(installation, installation.namespace), programs)
        kubernetes.kubectl("delete", "workspace", "tuned", "--timeout=60s", *here)
        kinds = "jobs,statefulsets,services,configmaps"
        left = kubernetes.kubectl("get", kinds, "--output=name", *here).split()
        other = is_held(installation, installation.namespace)
        said = {each.name: each.log.read_text() for each in programs}
    assert left == ["configmap/kube-root-ca.crt"]
    assert other == is_everywhere
    refused = [line for text in said.values() for line in text.splitlines() if "forbid" in line]
    # Everywhere is also where an earlier test's namespace ends, with what it left.
    assert not [line for line in refused if "is being terminated" not in line]


def made(installation: Installation) -> Object:
    """What a restart of a Workspace's pods would change: templates, and the pods themselves."""
    here = ("--namespace", installation.workspaces)
    found = kubectl_json(installation, "get", "jobs,statefulsets,pods", *here)["items"]
    return {
        f"{each['kind']}/{each['metadata']['name']}": (
            each["metadata"]["uid"],
            each["spec"].get("template"),
        )
        for each in found
    }


@pytest.mark.timeout(600)  # everything is started twice
def test_an_upgrade_from_the_last_release_restarts_no_pod_that_tunes_or_serves(
    installation: Installation, tmp_path: Path
) -> None:
    """The next version has another pod image; what goes on with the last one's goes on.

    The last release's chart is real, with its variables; its program is this one, which may take
    more rights than that chart gave.
    """
    released = installation.install_released(RELEASED, tmp_path / "released")
    kubernetes, here = installation.control_plane, ("--namespace", installation.workspaces)
    kubernetes.define("workspaces.kaito.sh", (CRDS / "kaito.sh_workspaces.yaml").read_text())

    def apply(name: str) -> None:
        manifest = json.dumps(workspace(installation, name))
        kubernetes.kubectl("apply", "--filename=-", *here, stdin=manifest)

    def state(name: str) -> object:
        return status(installation, installation.workspaces, name).get("state")

    held = (installation.workspaces, "tune")
    with installation.node() as machine:
        with running(installation, released, tmp_path, as_admin=True) as programs:
            apply("served")
            wait_until(lambda: state("served") == "Ready", programs)
            machine.held.add(held)
            apply("tuning")
            wait_until(lambda: machine.started[held] == 2, programs)
        before = made(installation)
        newer: Object = {"image": {"pod": {"tag": "0.2.0"}}}
        assert installation.run_hook("passwords", newer).returncode == 0
        installation.install(newer)
        with running(installation, installation.render(newer), tmp_path) as programs:
            machine.held.discard(held)
            wait_until(lambda: state("tuning") == "Ready", programs)
            after = made(installation)
            assert state("served") == "Ready"
    assert {"StatefulSet/served", "Pod/served-0", "Job/tuning-tune-1"} <= set(before)
    assert {key: after[key] for key in before} == before
    assert machine.started[held] == 2
    images = json.dumps(after["StatefulSet/tuning"][1])
    assert "kaitoflow/pod:0.2.0" in images
