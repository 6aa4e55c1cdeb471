"""`kaitoflow stop` and `delete` ask the watcher, and return when it has acted."""

from typing import Any

import pytest

from tasks.contract.status import State
from tests.flows.cluster.conftest import Terminal, failed_status, running_status, wait_for

pytestmark = pytest.mark.cluster

FINALIZER = "kaitoflow.io/release"


def pod_of(name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "kaitoflow", "kaito.sh/workspace": name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-tune-1-abcde", "labels": labels},
        "spec": {"containers": [{"name": "tune", "image": "example.com/pod"}]},
    }


@pytest.fixture
def applied(terminal: Terminal) -> Terminal:
    terminal.create(terminal.tuning_manifest())
    return terminal


def test_stop_marks_the_generation_and_waits_for_the_watcher(applied: Terminal) -> None:
    applied.write_status("tuned", running_status())
    applied.create(pod_of("tuned"))
    stop = applied.start("stop", "tuned")
    wait_for(lambda: "waiting for run, tuned-tune-1-abcde" in stop.said())
    annotations = applied.object("tuned")["metadata"]["annotations"]
    assert annotations == {"kaitoflow.io/stopped": "1"}
    stopped = failed_status("Stopped", "the run was stopped")
    stopped.state = State.STOPPED
    applied.write_status("tuned", stopped)
    wait_for(lambda: "waiting for tuned-tune-1-abcde" in stop.said())
    applied.kubectl("delete", "pod", "tuned-tune-1-abcde", "--grace-period=0", "--force")
    code, said = stop.ended()
    assert code == 0
    assert "workspace/tuned stopped (run, tuned-tune-1-abcde)" in said


def test_stop_of_what_does_not_run_keeps_it_from_running(applied: Terminal) -> None:
    applied.write_status("tuned", failed_status("OutOfMemory", "too little"))
    ended = applied.kaitoflow("stop", "tuned")
    assert (ended.returncode, "nothing was running" in ended.stdout) == (0, True)
    assert applied.object("tuned")["metadata"]["annotations"] == {"kaitoflow.io/stopped": "1"}


def test_stop_without_a_watcher_says_so(applied: Terminal) -> None:
    applied.environment["KAITOFLOW_WATCHER_TIMEOUT_S"] = "1"
    applied.write_status("tuned", running_status())
    ended = applied.kaitoflow("stop", "tuned")
    assert ended.returncode == 1
    assert "NoWatcher: " in ended.stderr


def test_delete_returns_when_the_finalizer_has_let_go(applied: Terminal) -> None:
    applied.patch("workspace", "tuned", {"metadata": {"finalizers": [FINALIZER]}})
    delete = applied.start("delete", "tuned", "--yes")
    wait_for(lambda: f"waiting for {FINALIZER}" in delete.said())
    assert applied.object("tuned")["metadata"]["deletionTimestamp"]
    applied.patch("workspace", "tuned", {"metadata": {"finalizers": None}})
    code, said = delete.ended()
    assert (code, "workspace/tuned deleted" in said) == (0, True)
    assert applied.object("tuned") == {}


def test_delete_without_a_watcher_says_so(applied: Terminal) -> None:
    applied.environment["KAITOFLOW_WATCHER_TIMEOUT_S"] = "1"
    applied.patch("workspace", "tuned", {"metadata": {"finalizers": [FINALIZER]}})
    ended = applied.kaitoflow("delete", "tuned", "--yes")
    applied.patch("workspace", "tuned", {"metadata": {"finalizers": None}})
    assert ended.returncode == 1
    assert "NoWatcher: " in ended.stderr


def test_delete_asks_when_nobody_can_answer(applied: Terminal) -> None:
    ended = applied.kaitoflow("delete", "tuned")
    assert ended.returncode == 3
    assert "deletionTimestamp" not in applied.object("tuned")["metadata"]
