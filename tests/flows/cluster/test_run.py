"""`kaitoflow run` in front of a cluster: it applies, watches, and ends as the run ends."""

import base64
import signal

import pytest

from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.status import ConditionType, FinishedStep, Progress, State, WorkspaceStatus
from tests.flows.cluster.conftest import (
    SECRET,
    Started,
    Terminal,
    failed_status,
    running_status,
    wait_for,
)

pytestmark = pytest.mark.cluster


def started_run(terminal: Terminal) -> Started:
    """A run of a new Workspace that is being watched."""
    run = terminal.start("run", terminal.write_tuning())
    wait_for(lambda: "applied" in run.said())
    return run


def succeeded_status(*, run: str = "first") -> WorkspaceStatus:
    status = running_status(run=run)
    status.state = State.READY
    status.steps = [FinishedStep(name="tune", seconds=12.5, detail="loss 3.1 to 1.2")]
    status.image = PublishedImage(
        reference="registry.example.com/adapters/tuned:1", digest="sha256:abc", pushed=True
    )
    status.endpoint = Endpoint(url="http://tuned.ns.svc", model="tuned")
    status.set_condition(ConditionType.WORKSPACE_SUCCEEDED, status="True", reason="done")
    return status


def test_every_object_of_the_file_is_applied(terminal: Terminal) -> None:
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings"},
        "data": {"training_config.yaml": "training_config: {}"},
    }
    path = terminal.write_file(terminal.tuning_manifest(config="settings"), SECRET, config_map)
    run = terminal.start("run", path)
    wait_for(lambda: "applied" in run.said())
    assert terminal.object("tuned")["tuning"]["config"] == "settings"
    assert terminal.object("settings", "configmap")["data"] == config_map["data"]
    data = terminal.object("push", "secret")["data"]
    assert base64.b64decode(data[".dockerconfigjson"]) == b'{"auths": {}}'


def test_a_run_shows_its_steps_and_what_was_made(terminal: Terminal) -> None:
    run = started_run(terminal)
    status = running_status()
    status.progress = Progress(step_name="tune", phase="train", step=3, steps=10, loss=2.5)
    terminal.write_status("tuned", status)
    wait_for(lambda: "tune  train  3/10  loss 2.500" in run.said())
    terminal.write_status("tuned", succeeded_status())
    code, said = run.ended()
    assert code == 0
    assert "loss 3.1 to 1.2" in said
    assert "image   registry.example.com/adapters/tuned:1@sha256:abc" in said
    assert "kaitoflow chat tuned" in said


def test_a_run_that_nothing_picks_up_says_that_there_is_no_watcher(terminal: Terminal) -> None:
    terminal.environment["KAITOFLOW_WATCHER_TIMEOUT_S"] = "1"
    ended = terminal.kaitoflow("run", terminal.write_tuning())
    assert ended.returncode == 1
    assert "NoWatcher: " in ended.stderr
    assert "helm install" in ended.stderr
    assert terminal.object("tuned")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_watching_and_not_the_run(terminal: Terminal, number: signal.Signals) -> None:
    run = started_run(terminal)
    terminal.write_status("tuned", running_status())
    run.process.send_signal(number)
    code, said = run.ended()
    assert code == 130
    assert "the run goes on in the cluster" in said
    assert "Traceback" not in said
    assert "annotations" not in terminal.object("tuned")["metadata"]


def test_a_workspace_that_the_run_refuses_exits_with_3(terminal: Terminal) -> None:
    run = started_run(terminal)
    status = WorkspaceStatus(state=State.FAILED, observed_generation=1, flow_run_id="first")
    status.set_condition(
        ConditionType.ACCEPTED, status="False", reason="SecretNotFound", message="no Secret push"
    )
    terminal.write_status("tuned", status)
    code, said = run.ended()
    assert code == 3
    assert "SecretNotFound: no Secret push" in said


@pytest.mark.parametrize(
    ("reason", "code"), [("DatasetRowsInvalid", 3), ("OutOfMemory", 1), ("NewlyInvented", 1)]
)
def test_a_run_that_fails_ends_with_its_reason(terminal: Terminal, reason: str, code: int) -> None:
    run = started_run(terminal)
    terminal.write_status("tuned", failed_status(reason, "it did not work"))
    ended, said = run.ended()
    assert ended == code
    assert f"{reason}: it did not work" in said


def test_what_the_api_server_refuses_exits_with_3_and_leaves_nothing(terminal: Terminal) -> None:
    terminal.create(terminal.tuning_manifest())
    path = terminal.write_tuning(preset={"name": "phi-4-mini-instruct"})
    ended = terminal.kaitoflow("run", path)
    assert ended.returncode == 3
    assert "InvalidWorkspace: " in ended.stderr
    assert "the API server refuses it" in ended.stderr
    assert terminal.object("push", "secret") == {}


def test_a_namespace_that_is_not_there_exits_with_3(terminal: Terminal) -> None:
    manifest = terminal.tuning_manifest()
    manifest["metadata"]["namespace"] = "nowhere"
    ended = terminal.kaitoflow("run", terminal.write_file(manifest))
    assert ended.returncode == 3
    assert "kubectl create namespace nowhere" in ended.stderr


def test_running_again_what_is_ready_changes_nothing(terminal: Terminal) -> None:
    terminal.create(terminal.tuning_manifest())
    terminal.write_status("tuned", succeeded_status())
    ended = terminal.kaitoflow("run", terminal.write_tuning())
    assert ended.returncode == 0
    assert "url     http://tuned.ns.svc" in ended.stdout
    assert terminal.object("tuned")["metadata"]["generation"] == 1


def test_running_what_was_stopped_lets_it_run_again(terminal: Terminal) -> None:
    terminal.create(terminal.tuning_manifest())
    terminal.write_status("tuned", succeeded_status(run="first"))
    stopped = {"metadata": {"annotations": {"kaitoflow.io/stopped": "1"}}}
    terminal.patch("workspace", "tuned", stopped)
    run = started_run(terminal)
    wait_for(lambda: "annotations" not in terminal.object("tuned")["metadata"])
    assert run.process.poll() is None
    terminal.write_status("tuned", succeeded_status(run="second"))
    assert run.ended()[0] == 0


def test_running_what_failed_has_it_stopped_first_and_waits_for_another_run(
    terminal: Terminal,
) -> None:
    terminal.create(terminal.tuning_manifest())
    failed = failed_status("OutOfMemory", "too little", run="first")
    terminal.write_status("tuned", failed)
    run = terminal.start("run", terminal.write_tuning())
    stopped = {"kaitoflow.io/stopped": "1"}
    wait_for(lambda: terminal.object("tuned")["metadata"].get("annotations") == stopped)
    failed.state = State.STOPPED
    terminal.write_status("tuned", failed)
    wait_for(lambda: "annotations" not in terminal.object("tuned")["metadata"])
    terminal.write_status("tuned", WorkspaceStatus(observed_generation=1, flow_run_id="first"))
    terminal.write_status("tuned", succeeded_status(run="second"))
    code, said = run.ended()
    assert code == 0
    assert "OutOfMemory" not in said


def test_what_failed_stays_startable_when_there_is_no_watcher(terminal: Terminal) -> None:
    terminal.create(terminal.tuning_manifest())
    terminal.write_status("tuned", failed_status("OutOfMemory", "too little"))
    terminal.environment["KAITOFLOW_WATCHER_TIMEOUT_S"] = "1"
    ended = terminal.kaitoflow("run", terminal.write_tuning())
    assert "NoWatcher: " in ended.stderr
    assert "annotations" not in terminal.object("tuned")["metadata"]


def test_a_server_that_is_not_ready_any_more_is_told(terminal: Terminal) -> None:
    terminal.create(terminal.tuning_manifest())
    status = succeeded_status()
    status.state = State.NOT_READY
    status.set_condition(
        ConditionType.INFERENCE_READY, status="False", reason="NodeLost", message="the node left"
    )
    terminal.write_status("tuned", status)
    ended = terminal.kaitoflow("run", terminal.write_tuning())
    assert (ended.returncode, ended.stderr) == (1, "NodeLost: the node left\n")


@pytest.mark.slow
def test_an_outage_of_the_api_server_does_not_end_watching(terminal: Terminal) -> None:
    run = started_run(terminal)
    terminal.write_status("tuned", running_status())
    terminal.control_plane.restart_api_server()
    terminal.write_status("tuned", succeeded_status())
    assert run.ended()[0] == 0


def test_a_workspace_deleted_meanwhile_ends_watching(terminal: Terminal) -> None:
    run = started_run(terminal)
    terminal.write_status("tuned", running_status())
    terminal.kubectl("delete", "workspace", "tuned")
    code, said = run.ended()
    assert code == 1
    assert "WorkspaceDeleted: " in said


def test_a_newer_generation_ends_watching(terminal: Terminal) -> None:
    run = started_run(terminal)
    terminal.write_status("tuned", running_status())
    terminal.patch("workspace", "tuned", {"tuning": {"output": {"image": "example.com/b:2"}}})
    code, said = run.ended()
    assert code == 1
    assert "RunSuperseded: " in said


def test_a_port_means_nothing_on_a_cluster(terminal: Terminal) -> None:
    ended = terminal.kaitoflow("run", terminal.write_tuning(), "--port", "6000")
    assert ended.returncode == 2
    assert "leave --port away" in ended.stderr
    assert terminal.object("tuned") == {}
