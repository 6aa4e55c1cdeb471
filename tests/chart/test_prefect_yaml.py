"""`prefect deploy` with our file, against a real Prefect server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.builders import tuning_manifest
from tests.chart.rendering import ROOT, VARIANTS, containers, environment, render
from tests.cluster.ports import free_port
from tests.cluster.program import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILE = ROOT / "deployments" / "prefect.yaml"
BIN = Path(sys.executable).parent
LIMIT_S = 120.0
REGISTER = "import asyncio, flows.worker.deployments as d; asyncio.run(d.deploy('kaitoflow'))"
# What a person reads and a run needs; ids and times are the server's.
SHOWN = (
    "concurrency_options",
    "description",
    "entrypoint",
    "parameter_openapi_schema",
    "path",
    "work_pool_name",
)


class Server:
    """A Prefect server, and its command line."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}/api"
        self.environment = {
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(folder),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Where nodes are made, all flows are deployed.
            "KAITOFLOW_PLATFORM": "kubernetes",
            "KAITOFLOW_PROVISIONER": "karpenter",
        }
        port = self.url.removesuffix("/api").rpartition(":")[2]
        told = [f"{name}={value}" for name, value in self.environment.items()]
        command = ["env", *told, str(BIN / "prefect"), "server", "start", "--port", port]
        self.program = Program("prefect", command, folder / "log")

    def is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health", trust_env=False, timeout=5).is_success
        except httpx2.HTTPError:
            return False

    def run(self, *command: str, **more: str) -> None:
        name, *arguments = command
        done = subprocess.run(
            [BIN / name, *arguments],
            cwd=ROOT,
            env=os.environ | self.environment | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def deployments(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Each deployment by its pool and its flow's entry point."""
        found = httpx2.post(f"{self.url}/deployments/filter", json={}, trust_env=False).json()
        return {(d["work_pool_name"], d["entrypoint"]): d for d in found}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With everything deployed that the file holds."""
    started = Server(tmp_path_factory.mktemp("prefect"))
    started.program.start()
    try:
        started.program.wait_until(started.is_ready, limit_s=LIMIT_S)
        started.run("python", "-c", REGISTER)
        for each in started.deployments().values():
            httpx2.delete(f"{started.url}/deployments/{each['id']}", trust_env=False)
        started.run("prefect", "work-pool", "create", "kubernetes", "--type", "kubernetes")
        file = ("--prefect-file", str(FILE.relative_to(ROOT)))
        started.run("prefect", "--no-prompt", "deploy", "--all", *file)
        yield started
    finally:
        started.program.stop()


def test_all_deployments_of_the_file_are_there(server: Server) -> None:
    wanted = yaml.safe_load(FILE.read_text())["deployments"]
    assert set(server.deployments()) == {
        (each["work_pool"]["name"], each["entrypoint"]) for each in wanted
    }


def test_flows_come_from_the_package_and_not_from_a_folder(server: Server) -> None:
    for each in server.deployments().values():
        assert (each["path"], each["storage_document_id"]) == (None, None)
        [step] = each["pull_steps"]
        assert [*step] == ["prefect.deployments.steps.set_working_directory"]


def test_the_worker_would_register_the_same(server: Server) -> None:
    before = server.deployments()
    server.run("python", "-c", REGISTER)
    after = server.deployments()
    assert set(after) == set(before)
    for key in before:
        assert {n: after[key][n] for n in SHOWN} == {n: before[key][n] for n in SHOWN}
        assert schedules(after[key]) == schedules(before[key])


def start(server: Server, namespace: str) -> httpx2.Response:
    """What Prefect's server says when its form starts a run for a Workspace of a namespace."""
    manifest = tuning_manifest()
    manifest["metadata"]["namespace"] = namespace
    [deployment] = [
        each
        for (pool, entrypoint), each in server.deployments().items()
        if pool == "kaitoflow" and entrypoint.endswith(".run_workspace")
    ]
    asked = {"parameters": {"workspace": manifest}, "state": {"type": "SCHEDULED"}}
    url = f"{server.url}/deployments/{deployment['id']}/create_flow_run"
    return httpx2.post(url, json=asked, trust_env=False)


def test_a_form_starts_runs_of_the_namespaces_that_are_served_alone(server: Server) -> None:
    server.run("python", "-c", REGISTER, KAITOFLOW_NAMESPACES='["team-a", "team-b"]')
    try:
        assert start(server, "team-b").is_success
        refused = start(server, "kube-system")
        assert refused.is_client_error
        assert "'kube-system' is not one of ['team-a', 'team-b']" in refused.text
    finally:
        server.run("python", "-c", REGISTER)


def schedules(deployment: dict[str, Any]) -> list[tuple[float, bool]]:
    return [(each["schedule"]["interval"], each["active"]) for each in deployment["schedules"]]


def test_a_pod_per_run_is_told_what_the_chart_tells_its_worker() -> None:
    pool = yaml.safe_load(FILE.read_text())["definitions"]["pod_per_run"]
    variables = pool["job_variables"]
    objects = render(VARIANTS["default"])
    images = dict(containers(objects))
    worker = environment(objects, "worker")
    assert variables["image"] == images["kaitoflow-worker"]["image"]
    assert variables["service_account_name"] == "kaitoflow-worker"
    assert {name: worker[name] for name in variables["env"]} == variables["env"]
