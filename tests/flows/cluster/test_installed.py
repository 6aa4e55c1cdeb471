"""The command line with the true watcher, worker and Prefect behind it; only the kubelet plays."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.simulated_node import DIGEST, SCRIPTS, Script
from tests.flows.cluster.conftest import SECRET, Terminal, terminal_before, wait_for
from tests.flows.watcher.conftest import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

STARTED = {"event": "progress", "step": 1, "steps": 4, "loss": 2.0}


@pytest.fixture
def terminal(installed: Installation, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in front of a new namespace of the cluster where Kaitoflow is installed."""
    name = f"test-{secrets.token_hex(4)}"
    installed.kubectl("create", "namespace", name)
    with terminal_before(installed.control_plane, name, tmp_path) as made:
        made.environment["KAITOFLOW_WATCHER_TIMEOUT_S"] = "60"
        yield made
    installed.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def file(terminal: Terminal) -> str:
    """A Workspace for the node that there is, and its Secret."""
    manifest = terminal.tuning_manifest()
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": "tuning"}}
    return terminal.write_file(manifest, SECRET)


def test_a_run_is_shown_to_its_end(terminal: Terminal, file: str) -> None:
    ended = terminal.kaitoflow("run", file)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    done = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("done")]
    assert done.index("tune") < done.index("push")
    assert DIGEST in ended.stdout
    said = terminal.kaitoflow("logs", "tuned").stdout.splitlines()
    steps = list(dict.fromkeys(line.split(" | ")[0] for line in said))
    assert [step for step in steps if step in SCRIPTS][-4:] == [
        *("fetch-dataset", "tune", "push-image", "serve"),
    ]
    assert "True" in terminal.kaitoflow("get", "tuned").stdout


def test_what_was_stopped_runs_again(terminal: Terminal, file: str) -> None:
    assert terminal.kaitoflow("run", file).returncode == 0
    first = terminal.object("tuned")["status"]["flowRunId"]
    stop = terminal.kaitoflow("stop", "tuned")
    assert (stop.returncode, "tuned-0" in stop.stdout) == (0, True), stop.stdout + stop.stderr
    again = terminal.kaitoflow("run", file)
    assert again.returncode == 0, again.stdout + again.stderr
    status = terminal.object("tuned")["status"]
    assert status["state"] == "Ready"
    assert status["flowRunId"] != first


def test_what_was_refused_runs_once_the_reason_is_gone(terminal: Terminal, file: str) -> None:
    manifest = terminal.tuning_manifest()
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": "tuning"}}
    refused = terminal.kaitoflow("run", terminal.write_file(manifest))
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "SecretNotFound: " in refused.stderr
    again = terminal.kaitoflow("run", terminal.write_file(manifest, SECRET))
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_run_can_be_stopped_under_way_and_resumed(
    terminal: Terminal, file: str, installed: Installation
) -> None:
    installed.node.scripts["tune"] = Script((STARTED,), seconds=300)
    try:
        run = terminal.start("run", file)
        wait_for(lambda: "step=1" in terminal.kaitoflow("logs", "tuned").stdout)
    finally:
        installed.node.scripts["tune"] = SCRIPTS["tune"]
    stop = terminal.kaitoflow("stop", "tuned")
    assert stop.returncode == 0, stop.stdout + stop.stderr
    code, said = run.ended()
    assert (code, "RunStopped: " in said) == (1, True), said
    again = terminal.kaitoflow("run", file)
    assert again.returncode == 0, again.stdout + again.stderr


def test_delete_leaves_nothing(terminal: Terminal, file: str) -> None:
    assert terminal.kaitoflow("run", file).returncode == 0
    deleted = terminal.kaitoflow("delete", "tuned", "--yes")
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    left = terminal.kubectl("get", "jobs,statefulsets,services,pods,workspaces", "-o", "name")
    assert left == ""


def test_a_doctor_tells_what_is_there_and_what_is_not(terminal: Terminal) -> None:
    examined = terminal.kaitoflow("doctor", "--output=json")
    seen = {check["name"]: check for check in json.loads(examined.stdout)["checks"]}
    fine = {name for name, check in seen.items() if check["result"] == "ok"}
    assert fine >= {"API server", "CRD", "rights", "clock"}
    # The programs are there, and not by the chart.
    assert (examined.returncode, seen["worker"]["result"]) == (1, "fail")
    assert "helm install" in seen["worker"]["fix"]
