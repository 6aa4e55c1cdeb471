"""Retuning on a cluster: data that is the same is skipped, and only a better adapter serves."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.simulated_node import DATASET, DIGEST, PUSHED, Script
from tests.flows.prefect import ask
from tests.flows.watcher.conftest import Installation
from tests.flows.watcher.installation import wait_until, workspace_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 30
LIMIT_S = 300.0
BETTER, WORSE = "sha256:" + "b" * 64, "sha256:" + "c" * 64


@pytest.fixture(scope="module")
def prefect_home(crowded_prefect: str) -> str:
    """A Prefect server that answers while schedules, runs and their killer all write to it."""
    return crowded_prefect


def measured(candidate: float, serving: float) -> Script:
    """What the measurement says: a loss for each row, the same for all."""
    losses = {"base": 3.0, "candidate": candidate, "serving": serving}
    models = {name: {"losses": [loss] * ROWS} for name, loss in losses.items()}
    return Script(({"event": "result", "rows_digest": "rows", "seconds": 1.0, **models},))


def new_data(installed: Installation, digest: str, image: str, measurement: Script) -> None:
    """Have the dataset be another one, and the adapter that is tuned from it."""
    installed.node.scripts |= {
        "fetch-dataset": Script((DATASET | {"digest": digest},)),
        "push-image": Script((PUSHED | {"digest": image},)),
        "measure": measurement,
    }


def served(installed: Installation, namespace: str) -> dict[str, Any]:
    """The Workspace's manifest once it is served; where its rows lie nobody else can look."""
    manifest = workspace_manifest(namespace, input={"image": "registry.example.com/rows:1"})
    installed.apply(manifest)
    installed.wait_until_ready(namespace, limit_s=LIMIT_S)
    return manifest


def told(installed: Installation, namespace: str, words: str) -> dict[str, Any]:
    """The status once its last retuning came to something with these words, and is over."""

    def is_told(status: dict[str, Any]) -> bool:
        is_over = "adapterRun" not in status
        return is_over and words in status.get("adapters", {}).get("told", "")

    return installed.wait_for(namespace, is_told, what=words, limit_s=LIMIT_S)


def fates(status: dict[str, Any]) -> list[str]:
    return [record["fate"] for record in status["adapters"]["records"]]


def pulled_by_the_server(installed: Installation, namespace: str) -> str:
    """The adapter's image that a pod of the server fetches."""
    data = installed.get("configmap", namespace, "tuned-inference-1")["data"]
    return str(json.loads(data["pull-tuned.json"])["reference"])


def schedules(installed: Installation, namespace: str) -> list[dict[str, Any]]:
    api = installed.prefect_api
    deployment = ask("GET", f"{api}/deployments/name/retune-workspace/kaitoflow").json()
    found = ask("GET", f"{api}/deployments/{deployment['id']}/schedules").json()
    return [each for each in found if each["slug"] == f"{namespace}/tuned"]


def retune(installed: Installation, namespace: str) -> None:
    """Start a retuning from its form in Prefect's UI."""
    api = installed.prefect_api
    deployment = ask("GET", f"{api}/deployments/name/retune-workspace/kaitoflow").json()
    body = {"parameters": {"name": "tuned", "namespace": namespace}}
    made = ask("POST", f"{api}/deployments/{deployment['id']}/create_flow_run", json=body)
    made.raise_for_status()


def suspended_question(installed: Installation, namespace: str) -> str:
    """The id of the run that waits for a person's word on the second adapter."""
    asked = {"flow_runs": {"name": {"any_": [f"approve {namespace}/tuned@2"]}}}

    def waits() -> str | None:
        runs = ask("POST", f"{installed.prefect_api}/flow_runs/filter", json=asked).json()
        return next((str(run["id"]) for run in runs if run["state_name"] == "Suspended"), None)

    return wait_until(waits, "the question")


def annotate(installed: Installation, namespace: str, *annotations: str) -> None:
    command = ("annotate", "workspace", "tuned", "-n", namespace, "--overwrite")
    installed.kubectl(*command, *annotations)


def kaitoflow(installed: Installation, namespace: str, *arguments: str) -> str:
    """What the command line says to an administrator of the cluster."""
    environment = os.environ | {
        "KUBECONFIG": str(installed.control_plane.kubeconfig),
        "KAITOFLOW_PLATFORM": "kubernetes",
        "KAITOFLOW_HOME": str(installed.folder / "home"),
        "PREFECT_API_URL": installed.prefect_api,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "flows", *arguments, "tuned", "--namespace", namespace],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_schedule_skips_tries_promotes_and_keeps_out_and_a_person_goes_back(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    served(installed, namespace)
    first_pod = installed.get("pod", namespace, "tuned-0")["metadata"]["uid"]
    installed.node.held.add((namespace, "tune"))
    annotate(installed, namespace, "kaitoflow.io/retune-schedule=20s")
    status = told(installed, namespace, "skipped: the data has the same bytes as before")
    assert status["state"] == "Ready"
    assert installed.node.started[namespace, "measure"] == 0

    new_data(installed, "sha256:e", BETTER, measured(2.0, 2.3))
    wait_until(
        lambda: (
            "adapterRun" in installed.status(namespace)
            and installed.status(namespace)["progress"].get("stepName") == "tune"
        ),
        "a candidate to be tuned",
    )
    # What serves goes on, and is kept: by the retuning, since nobody else may change it now.
    assert installed.get("pod", namespace, "tuned-0")["metadata"]["uid"] == first_pod
    installed.kubectl("delete", "service", "tuned", "-n", namespace)
    wait_until(lambda: "service/tuned" in installed.names("services", namespace), "the Service")
    assert len(installed.names("jobs", namespace)) == 2
    installed.node.held.clear()
    status = told(installed, namespace, "promoted: tuned@")
    assert status["image"]["digest"] == BETTER
    assert pulled_by_the_server(installed, namespace).endswith(BETTER)
    assert fates(status) == ["served", "serving"]
    assert "the server was started with it, since no admin key" in status["adapters"]["told"]
    assert installed.get("pod", namespace, "tuned-0")["metadata"]["uid"] != first_pod
    assert installed.names("jobs", namespace) == ["job.batch/tuned-tune-1"]

    new_data(installed, "sha256:f", WORSE, measured(2.4, 2.0))
    status = told(installed, namespace, "kept tuned@")
    assert status["image"]["digest"] == BETTER
    assert fates(status) == ["served", "serving", "kept out"]
    described = installed.kubectl("describe", "workspace", "tuned", "-n", namespace)
    assert "candidate's loss 2.400 is 0.400 worse than 2.000 on 30 rows" in described

    [schedule] = schedules(installed, namespace)
    assert schedule["active"]
    annotate(installed, namespace, "kaitoflow.io/retune-schedule-")
    wait_until(lambda: not schedules(installed, namespace), "the schedule to go")
    installed.wait_for(namespace, lambda status: "adapterRun" not in status)
    assert f"serves: {DIGEST}" in kaitoflow(installed, namespace, "rollback")
    status = installed.wait_until_ready(namespace)
    assert pulled_by_the_server(installed, namespace).endswith(DIGEST)
    assert fates(status) == ["serving", "served", "kept out"]
    assert (status["repairs"]["count"], status["attempt"]) == (0, 0)


def test_a_killed_retuning_goes_on_and_promotes_once(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    served(installed, namespace)
    new_data(installed, "sha256:e", BETTER, measured(2.0, 2.3))
    installed.node.held.add((namespace, "tune"))
    retune(installed, namespace)
    installed.wait_until_started(namespace, "tune", 2)
    installed.kill("worker")
    installed.start_worker()
    installed.node.held.clear()
    status = told(installed, namespace, "promoted: tuned@2")
    assert status["image"]["digest"] == BETTER
    assert fates(status) == ["served", "serving"]
    assert installed.node.started[namespace, "tune"] == 2


def test_an_edit_ends_a_retuning_and_is_run(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    manifest = served(installed, namespace)
    new_data(installed, "sha256:e", BETTER, measured(2.0, 2.3))
    installed.node.held.add((namespace, "tune"))
    retune(installed, namespace)
    installed.wait_until_started(namespace, "tune", 2)
    manifest["tuning"]["input"]["image"] = "registry.example.com/rows:2"
    installed.apply(manifest)
    installed.wait_until_started(namespace, "tune", 3)
    assert installed.names("jobs", namespace) == ["job.batch/tuned-tune-2"]
    installed.node.held.clear()
    status = installed.wait_for(
        namespace,
        lambda s: s.get("observedGeneration") == 2 and s["state"] == "Ready",
        what="the second generation",
        limit_s=LIMIT_S,
    )
    assert "adapterRun" not in status
    assert status["image"]["digest"] == BETTER


def test_a_candidate_waits_for_a_person_who_is_asked_in_prefect_and_holds_nothing(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    served(installed, namespace)
    annotate(installed, namespace, "kaitoflow.io/promotion=approve")
    new_data(installed, "sha256:g", BETTER, measured(2.0, 2.3))
    retune(installed, namespace)
    status = told(installed, namespace, "waits for `kaitoflow promote tuned`")
    assert fates(status) == ["serving", "waiting"]
    assert installed.names("jobs", namespace) == ["job.batch/tuned-tune-1"]
    run = suspended_question(installed, namespace)
    word = {"run_input": {"approve": "yes", "note": "reads better"}}
    ask("POST", f"{installed.prefect_api}/flow_runs/{run}/resume", json=word).raise_for_status()
    status = told(installed, namespace, "promoted tuned@2 by Prefect: reads better")
    assert (status["image"]["digest"], fates(status)) == (BETTER, ["served", "serving"])
