"""Apply a Workspace, and it is tuned, published and served; delete it, and nothing is left."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chart.rendering import NAMESPACE
from tests.cluster.simulated_node import DIGEST, Script
from tests.flows.canary import CANARY, holding, signed
from tests.flows.prefect import ask
from tests.flows.prometheus import values
from tests.flows.watcher.installation import (
    ALL,
    ENDED,
    Installation,
    true_conditions,
    wait_until,
    workspace_manifest,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_an_applied_workspace_ends_served(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.apply(workspace_manifest(namespace))
    status = installed.wait_for(namespace, lambda s: s.get("state") == "Ready")
    assert true_conditions(status) == ALL
    assert status["image"]["digest"] == DIGEST
    assert [h["digest"] for h in status["history"]] == [DIGEST]
    table = installed.kubectl("get", "workspace", "-n", namespace).splitlines()
    assert table[0].split() == [
        *("NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"),
    ]
    assert table[1].split()[:5] == ["tuned", "Standard_NC4as_T4_v3", "True", "True", "True"]
    services = installed.kubectl("get", "svc", "tuned", "-n", namespace)
    assert "80/TCP,29500/TCP" in services
    assert len(installed.get("jobs", namespace)["items"]) == 1


def test_the_secrets_of_a_dataset_s_address_are_in_the_workspace_s_objects_alone(
    installed: Installation, workspace_namespace: str, prefect_folder: Path
) -> None:
    namespace = workspace_namespace
    source = {"urls": [signed("https://example.com/data.parquet")]}
    installed.apply(workspace_manifest(namespace, input=source))
    status = installed.wait_for(namespace, lambda s: s.get("state") == "Ready")
    told = installed.get("configmaps", namespace)["items"]
    assert any(CANARY in json.dumps(each["data"]) for each in told)
    run = ask("GET", f"{installed.prefect_api}/flow_runs/{status['flowRunId']}").json()
    [url] = run["parameters"]["workspace"]["tuning"]["input"]["urls"]
    assert url == "https://***@example.com/data.parquet?sv=1&sig=***"
    assert holding(prefect_folder, url)  # the search finds what is there
    assert holding(prefect_folder, CANARY) == []
    logs = [installed.folder / f"{name}.log" for name in ("watcher", "worker")]
    assert not any(CANARY in log.read_text() for log in logs)


def test_conditions_become_events_one_for_each_cause(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.apply(workspace_manifest(namespace))
    installed.wait_for(namespace, lambda s: s.get("state") == "Ready")
    events = installed.get("events", namespace)["items"]
    told = [e["message"] for e in events if e["source"].get("component") == "kaitoflow"]
    assert any(
        message.startswith("Accepted is True: no check failed\nnot checked: ") for message in told
    )
    [ready] = [message for message in told if "ResourceReady" in message]
    assert ready.startswith("NodesReady and ResourceReady are True: ")


def test_both_programs_tell_prometheus_of_what_they_have_done(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.apply(workspace_manifest(namespace))
    installed.wait_for(namespace, lambda s: s.get("state") == "Ready")

    def is_counted() -> bool:
        told = values(installed.metrics("watcher"))
        return told("kaitoflow_workspaces", state="Ready", reason="") >= 1

    wait_until(is_counted, "the watcher's word of it")  # which hears of it a moment later
    watcher, worker = (values(installed.metrics(name)) for name in ("watcher", "worker"))
    assert watcher("kaitoflow_watcher_leading") == 1
    assert watcher("kaitoflow_starts_total", reason="new") >= 1
    assert worker("kaitoflow_worker_runs", phase="waiting") == 0
    for tells in (watcher, worker):
        for api in ("kubernetes", "prefect"):
            name = "kaitoflow_api_request_duration_seconds_count"
            assert tells(name, api=api, method="GET") + tells(name, api=api, method="POST") > 0


def test_a_missing_secret_is_told_and_nothing_is_created(
    installed: Installation, namespace: str
) -> None:
    installed.apply(workspace_manifest(namespace))
    status = installed.wait_for(namespace, lambda s: s.get("state") == "Failed")
    accepted = next(c for c in status["conditions"] if c["type"] == "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "SecretNotFound")
    assert "kubectl create secret docker-registry" in accepted["message"]
    assert installed.get("jobs", namespace)["items"] == []


def test_a_run_that_fails_for_good_says_why(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    verdict = {
        "event": "verdict",
        "reason": "DatasetRowsInvalid",
        "message": "rows were asked for; row 3 has no answer; give it one",
        "retryable": False,
    }
    installed.node.scripts["fetch-dataset"] = Script((verdict,), exit_code=3)
    installed.apply(workspace_manifest(namespace))
    status = installed.wait_for(namespace, lambda s: s.get("state") == "Failed")
    assert status["reason"] == "DatasetRowsInvalid"
    pushed = installed.get("workspace", namespace, "tuned")["status"].get("image")
    assert pushed is None


def test_a_restarted_watcher_starts_no_second_run(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.node.held.add((namespace, "tune"))
    installed.apply(workspace_manifest(namespace))
    installed.wait_until_started(namespace, "tune")
    before = installed.wait_for(namespace, lambda s: "flowRunId" in s)
    installed.kill("watcher")
    installed.start("watcher")
    installed.node.held.clear()
    installed.expect_one_run(namespace)
    assert installed.status(namespace)["flowRunId"] == before["flowRunId"]


@pytest.mark.slow
def test_a_run_that_a_person_deletes_before_it_began_is_started_again(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.kill("worker")
    installed.apply(workspace_manifest(namespace))
    uid = installed.uid(namespace)
    [run] = wait_until(lambda: installed.runs(uid), "its run")
    deleted = ask("DELETE", f"{installed.prefect_api}/flow_runs/{run['id']}")
    assert deleted.is_success
    [other] = wait_until(lambda: installed.runs(uid), "another run")
    assert other["id"] != run["id"]
    installed.start_worker()
    installed.expect_one_run(namespace)


def test_a_stopped_watcher_lets_another_lead_at_once(installed: Installation) -> None:
    lease = ("get", "lease", "kaitoflow-watcher", "-n", NAMESPACE)
    wait_until(lambda: installed.health()[1].get("leading"), "the watcher to lead")
    installed.programs.pop("watcher").stop()
    holder = installed.kubectl(*lease, "-o", "jsonpath={.spec.holderIdentity}")
    installed.start("watcher")
    assert holder == ""
    wait_until(lambda: installed.health()[1].get("leading"), "the next watcher to lead")


@pytest.mark.slow
def test_an_edit_while_the_model_is_tuned_replaces_the_run(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.node.held.add((namespace, "tune"))
    installed.apply(workspace_manifest(namespace))
    installed.wait_until_started(namespace, "tune")
    edit(installed, namespace)
    installed.wait_until_started(namespace, "tune", 2)
    installed.node.held.clear()
    expect_second_generation(installed, namespace)
    assert installed.node.started[namespace, "push-image"] == 1


@pytest.mark.slow
def test_an_edit_while_the_image_is_pushed_ends_that_push_before_another_begins(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace, push = workspace_namespace, (workspace_namespace, "push-image")
    installed.node.held.add(push)
    installed.node.ending_s = 3  # a push that goes on until it is killed
    installed.apply(workspace_manifest(namespace))
    installed.wait_until_started(*push)
    edit(installed, namespace)
    installed.wait_until_started(*push, 2)
    installed.node.held.clear()
    expect_second_generation(installed, namespace)
    assert installed.node.started[push] == 2
    assert installed.node.most_at_once[push] == 1


def edit(installed: Installation, namespace: str) -> None:
    urls = ["https://example.com/new.parquet"]
    installed.apply(workspace_manifest(namespace, input={"urls": urls}))


def expect_second_generation(installed: Installation, namespace: str) -> None:
    status = installed.wait_for(
        namespace,
        lambda s: s.get("observedGeneration") == 2 and s.get("state") == "Ready",
    )
    assert [h["generation"] for h in status["history"]] == [2]
    assert installed.names("jobs", namespace) == ["job.batch/tuned-tune-2"]


@pytest.mark.slow
def test_the_stop_annotation_ends_the_run_and_its_removal_starts_it_again(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.apply(workspace_manifest(namespace))
    installed.wait_for(namespace, lambda s: s.get("state") == "Ready")
    annotate = ("annotate", "workspace", "tuned", "-n", namespace)
    installed.kubectl(*annotate, "kaitoflow.io/stopped=1")
    status = installed.wait_for(namespace, lambda s: s.get("state") == "Stopped")
    assert status["reason"] == "StopRequested"
    assert installed.get("statefulsets", namespace)["items"] == []
    installed.kubectl(*annotate, "kaitoflow.io/stopped-")
    installed.wait_for(namespace, lambda s: s.get("state") == "Ready")


KINDS = "jobs,statefulsets,services,configmaps,pods,controllerrevisions"


def wait_for_a_node(installed: Installation, namespace: str) -> None:
    """It asks for a node that nobody has."""
    manifest = workspace_manifest(namespace)
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": "nobody"}}
    installed.apply(manifest)
    installed.wait_for(namespace, lambda s: bool(s.get("progress", {}).get("phase")))


def be_at(container: str) -> Callable[[Installation, str], None]:
    def wait(installed: Installation, namespace: str) -> None:
        installed.node.held.add((namespace, container))
        installed.apply(workspace_manifest(namespace))
        installed.wait_until_started(namespace, container)

    return wait


def be_ready(installed: Installation, namespace: str) -> None:
    installed.apply(workspace_manifest(namespace))
    installed.wait_until_ready(namespace)


def lose_the_worker(installed: Installation, namespace: str) -> None:
    """Its worker dies while it tunes, and another is on its way."""
    be_at("tune")(installed, namespace)
    installed.kill("worker")
    installed.start_worker()


MOMENTS: dict[str, Callable[[Installation, str], None]] = {
    "no node": wait_for_a_node,
    "tuning": be_at("tune"),
    "pushing": be_at("push-image"),
    "loading": be_at("serve"),
    "serving": be_ready,
    "no worker": lose_the_worker,
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_workspace_that_is_deleted_at_any_moment_leaves_nothing(
    installed: Installation, workspace_namespace: str, moment: str
) -> None:
    namespace = workspace_namespace
    installed.node.ending_s = 1  # as pods are there for a while that have been deleted
    MOMENTS[moment](installed, namespace)
    uid = installed.uid(namespace)
    installed.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=180s")
    assert installed.names(KINDS, namespace) == ["configmap/kube-root-ca.crt"]
    wait_until(
        lambda: {run["state_type"] for run in installed.runs(uid)} <= ENDED,
        "an end of all its runs",
    )
