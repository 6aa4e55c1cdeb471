"""`kaitoflow logs` in front of a cluster: every container's words, in the order of the run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.cluster.conftest import Terminal, failed_status, running_status, wait_for
from tests.flows.cluster.kubelet import Kubelet, running_kubelet

pytestmark = pytest.mark.cluster

DONE = {"terminated": {"exitCode": 0}}
RUNS: dict[str, Any] = {"running": {}}
WAITS = {"waiting": {"reason": "PodInitializing"}}


@pytest.fixture
def applied(terminal: Terminal) -> Terminal:
    terminal.create(terminal.tuning_manifest())
    terminal.write_status("tuned", running_status())
    return terminal


@pytest.fixture
def kubelet(applied: Terminal, tmp_path: Path) -> Iterator[Kubelet]:
    node = f"node-of-{applied.namespace}"
    with running_kubelet(applied.control_plane, node, tmp_path) as running:
        yield running


def have_pod(
    terminal: Terminal,
    kubelet: Kubelet,
    name: str,
    containers: dict[str, Any],
    kind: str = "tuning",
) -> None:
    """A pod of the Workspace whose containers are in these states; the last is its main one."""
    *first, last = [{"name": each, "image": "example.com/pod"} for each in containers]
    labels = {
        "app.kubernetes.io/managed-by": "kaitoflow",
        "kaito.sh/workspace": "tuned",
        "kaitoflow.io/generation": "1",
        "kaitoflow.io/pod": kind,
    }
    spec = {"nodeName": kubelet.name, "initContainers": first, "containers": [last]}
    metadata = {"name": name, "labels": labels}
    terminal.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    set_states(terminal, name, containers)


def set_states(terminal: Terminal, pod: str, states: dict[str, Any], *, restarts: int = 0) -> None:
    *first, last = [
        {
            "name": name,
            "state": state,
            "containerID": f"containerd://{pod}-{name}-{restarts}",
            "restartCount": restarts,
            "image": "example.com/pod",
            "imageID": "",
            "ready": state == RUNS,
        }
        for name, state in states.items()
    ]
    patch = {"status": {"initContainerStatuses": first, "containerStatuses": [last]}}
    terminal.patch("pod", pod, patch, subresource="status")


def test_logs_are_told_in_the_order_of_the_run(applied: Terminal, kubelet: Kubelet) -> None:
    have_pod(applied, kubelet, "tuned-0", {"fetch-weights": DONE, "serve": RUNS}, "inference")
    states = {"fetch-dataset": DONE, "tune": DONE, "push-image": DONE}
    have_pod(applied, kubelet, "tuned-tune-1-a", states)
    for name in states:
        kubelet.log("tuned-tune-1-a", name).say(f"words of {name}")
    kubelet.log("tuned-0", "serve").say("it listens")
    assert applied.kaitoflow("logs", "tuned").stdout.splitlines() == [
        "fetch-dataset | words of fetch-dataset",
        "tune | words of tune",
        "push-image | words of push-image",
        "serve | it listens",
    ]


def test_events_are_told_as_words(applied: Terminal, kubelet: Kubelet) -> None:
    have_pod(applied, kubelet, "tuned-tune-1-a", {"fetch-dataset": DONE, "tune": DONE})
    event = {"event": "progress", "step": 3, "loss": 2.5}
    kubelet.log("tuned-tune-1-a", "tune").say(json.dumps(event))
    ended = applied.kaitoflow("logs", "tuned", "--step", "tune")
    assert ended.stdout == "progress step=3 loss=2.5\n"


def test_an_unknown_step_is_told_with_those_there_are(applied: Terminal, kubelet: Kubelet) -> None:
    have_pod(applied, kubelet, "tuned-tune-1-a", {"fetch-dataset": DONE, "tune": WAITS})
    ended = applied.kaitoflow("logs", "tuned", "--step", "tune")
    assert ended.returncode == 1
    assert "there are logs of: fetch-dataset;" in ended.stderr


def test_the_newest_pod_of_a_job_speaks_and_the_one_before_is_previous(
    applied: Terminal, kubelet: Kubelet
) -> None:
    have_pod(applied, kubelet, "tuned-tune-1-a", {"tune": DONE})
    kubelet.log("tuned-tune-1-a", "tune").say("first try")
    created = applied.object("tuned-tune-1-a", "pod")["metadata"]["creationTimestamp"]

    def is_later() -> bool:  # a pod's time of creation has whole seconds
        applied.kubectl("delete", "pod", "tuned-tune-1-b", "--ignore-not-found", "--force")
        have_pod(applied, kubelet, "tuned-tune-1-b", {"tune": RUNS})
        found = applied.object("tuned-tune-1-b", "pod")["metadata"]["creationTimestamp"]
        return bool(found > created)

    wait_for(is_later)
    kubelet.log("tuned-tune-1-b", "tune").say("second try")
    assert applied.kaitoflow("logs", "tuned").stdout == "tune | second try\n"
    assert applied.kaitoflow("logs", "tuned", "-p").stdout == "tune | first try\n"


def test_the_start_before_of_a_container_is_previous(applied: Terminal, kubelet: Kubelet) -> None:
    have_pod(applied, kubelet, "tuned-0", {"serve": RUNS}, "inference")
    set_states(applied, "tuned-0", {"serve": RUNS}, restarts=1)
    status = applied.object("tuned-0", "pod")["status"]["containerStatuses"]
    ended = {"exitCode": 137, "containerID": "containerd://before"}
    status[0]["lastState"] = {"terminated": ended}
    applied.patch("pod", "tuned-0", {"status": {"containerStatuses": status}}, subresource="status")
    kubelet.log("tuned-0", "serve", previous=True).say("it was too big")
    kubelet.log("tuned-0", "serve").say("it listens")
    assert applied.kaitoflow("logs", "tuned", "-p").stdout == "serve | it was too big\n"


def test_following_goes_from_container_to_container_until_the_run_ends(
    applied: Terminal, kubelet: Kubelet
) -> None:
    states = {"fetch-dataset": RUNS, "tune": WAITS}
    have_pod(applied, kubelet, "tuned-tune-1-a", states)
    fetch, tune = (kubelet.log("tuned-tune-1-a", name) for name in states)
    fetch.is_over = tune.is_over = False
    logs = applied.start("logs", "tuned", "-f")
    fetch.say("one")
    wait_for(lambda: logs.said() == "fetch-dataset | one\n")
    fetch.end()
    set_states(applied, "tuned-tune-1-a", {"fetch-dataset": DONE, "tune": RUNS})
    tune.say("two")
    wait_for(lambda: "tune | two" in logs.said())
    applied.write_status("tuned", failed_status("OutOfMemory", "too little"))
    tune.say("three")
    tune.end()
    set_states(applied, "tuned-tune-1-a", {"fetch-dataset": DONE, "tune": DONE})
    assert logs.ended() == (0, "fetch-dataset | one\ntune | two\ntune | three\n")


def test_a_log_that_breaks_off_goes_on_after_its_last_line(
    applied: Terminal, kubelet: Kubelet
) -> None:
    have_pod(applied, kubelet, "tuned-tune-1-a", {"tune": RUNS})
    log = kubelet.log("tuned-tune-1-a", "tune")
    log.is_over = False
    log.say("one", "two", "three")
    kubelet.drop_after = 2
    logs = applied.start("logs", "tuned", "-f")
    wait_for(lambda: "three" in logs.said())
    applied.write_status("tuned", failed_status("OutOfMemory", "too little"))
    set_states(applied, "tuned-tune-1-a", {"tune": DONE})
    log.end()
    assert logs.ended() == (0, "tune | one\ntune | two\ntune | three\n")
