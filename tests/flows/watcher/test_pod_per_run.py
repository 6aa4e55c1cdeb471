"""A run started from Prefect's UI on a Kubernetes work pool: what its own pod does.

Prefect's Kubernetes worker makes the pod; its environment is that of `deployments/prefect.yaml`,
its command Prefect's own, its rights those of the chart's service account.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import ROOT
from tests.cluster.simulated_node import DIGEST
from tests.flows.prefect import ask
from tests.flows.watcher.installation import Installation, workspace_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

FILE = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
POOL = FILE["definitions"]["pod_per_run"]
# The command of the pods that `prefect worker start --type kubernetes` makes.
COMMAND = [str(Path(sys.executable).with_name("prefect")), "flow-run", "execute"]


class Pool:
    """A Kubernetes work pool of the Prefect server, with a deployment of the flow."""

    def __init__(self, api: str) -> None:
        self._api = api
        pool = {"name": POOL["name"], "type": "kubernetes", "base_job_template": {}}
        ask("POST", f"{api}/work_pools/", json=pool)
        flow = self.call("POST", "/flows/", {"name": "run-workspace"})
        entry = "flows.run_workspace.run_workspace"
        [described] = [
            each
            for each in FILE["deployments"]
            if each["entrypoint"] == entry and each["work_pool"] == POOL
        ]
        made = {
            "name": described["name"],
            "flow_id": flow["id"],
            "entrypoint": entry,
            "work_pool_name": POOL["name"],
            "pull_steps": described["pull"],
        }
        self._deployment = self.call("POST", "/deployments/", made)["id"]

    def call(self, method: str, route: str, body: Any = None) -> Any:
        return ask(method, f"{self._api}{route}", json=body).raise_for_status().json()

    def start(self, manifest: dict[str, Any]) -> str:
        """The id of a new run, as the UI's form asks for it."""
        route = f"/deployments/{self._deployment}/create_flow_run"
        asked = {"parameters": {"workspace": manifest}, "enforce_parameter_schema": False}
        return str(self.call("POST", route, asked)["id"])

    def state(self, run: str) -> dict[str, Any]:
        state: dict[str, Any] = self.call("GET", f"/flow_runs/{run}")["state"]
        return state


def test_it_hands_the_workspace_over_to_the_watchers_run_of_it(
    installed: Installation, workspace_namespace: str, tmp_path: Path
) -> None:
    pool = Pool(installed.prefect_api)
    run = pool.start(workspace_manifest(workspace_namespace))
    told = POOL["job_variables"]["env"] | {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(installed.kubeconfig("worker")),
        "PREFECT_API_URL": installed.prefect_api,
        "PREFECT_API_AUTH_STRING": os.environ["PREFECT_API_AUTH_STRING"],
        "PREFECT__FLOW_RUN_ID": run,
    }
    pod = subprocess.run(
        COMMAND, cwd=ROOT, env=told, capture_output=True, text=True, check=False, timeout=300
    )
    assert pod.returncode == 0, pod.stdout + pod.stderr
    ended = pool.state(run)
    assert (ended["type"], ended["name"]) == ("COMPLETED", "HandedOver"), pod.stdout + pod.stderr
    status = installed.wait_until_ready(workspace_namespace)
    assert len(installed.runs(installed.uid(workspace_namespace))) == 1
    assert [each["digest"] for each in status["history"]] == [DIGEST]
    once = ("fetch-dataset", "tune", "push-image", "serve")
    started = {name: installed.node.started[workspace_namespace, name] for name in once}
    assert started == dict.fromkeys(once, 1)
