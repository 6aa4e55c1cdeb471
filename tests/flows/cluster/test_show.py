"""`kaitoflow get` and `describe` in front of a cluster: what kubectl shows, and why."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.status import ConditionType
from tests.cluster.control_plane import running_control_plane
from tests.flows.cluster.conftest import Terminal, failed_status, running_status, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture
def applied(terminal: Terminal) -> Terminal:
    """A namespace in which a Workspace runs."""
    terminal.create(terminal.tuning_manifest())
    terminal.write_status("tuned", running_status())
    return terminal


@pytest.mark.parametrize("output", [(), ("-o", "wide")])
def test_get_prints_what_kubectl_prints(applied: Terminal, output: tuple[str, ...]) -> None:
    ours = applied.kaitoflow("get", *output).stdout.splitlines()
    kubectls = applied.kubectl("get", "workspaces", *output).splitlines()
    assert ours[0].split() == kubectls[0].split()
    assert ours[1].split()[:-1] == kubectls[1].split()[:-1]


def test_get_wide_tells_when_it_is_retuned_next(terminal: Terminal) -> None:
    manifest = terminal.tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaitoflow.io/retune-schedule": "6h"}
    terminal.create(manifest)
    heading, row = terminal.kaitoflow("get", "-o", "wide").stdout.splitlines()
    assert heading.split()[-2:] == ["NEXTRETUNING", "AGE"]
    assert "within 6 h" in row
    assert "NEXTRETUNING" not in terminal.kaitoflow("get").stdout


def test_get_of_all_namespaces_names_them(applied: Terminal) -> None:
    lines = applied.kaitoflow("get", "-A").stdout.splitlines()
    assert lines[0].split()[:2] == ["NAMESPACE", "NAME"]
    assert [applied.namespace, "tuned"] in [line.split()[:2] for line in lines]


def test_get_as_json_is_the_object(applied: Terminal) -> None:
    shown = json.loads(applied.kaitoflow("get", "tuned", "-o", "json").stdout)
    assert (shown["kind"], shown["status"]["state"]) == ("Workspace", "Running")
    assert "managedFields" not in shown["metadata"]


def test_get_as_yaml_can_be_applied_again(applied: Terminal) -> None:
    shown = applied.kaitoflow("get", "tuned", "-o", "yaml").stdout
    assert yaml.safe_load(shown)["apiVersion"] == "kaito.sh/v1beta1"
    assert "tuned" in applied.kubectl("apply", "--server-side", "--filename=-", stdin=shown)


def test_get_without_workspaces_says_the_next_step(terminal: Terminal) -> None:
    assert "kaitoflow run WORKSPACE.yaml" in terminal.kaitoflow("get").stdout


def test_get_w_prints_again_when_something_changes(applied: Terminal) -> None:
    watching = applied.start("get", "-w", "-o", "wide")
    wait_for(lambda: "Running" in watching.said())
    applied.write_status("tuned", failed_status("OutOfMemory", "too little"))
    wait_for(lambda: "Failed" in watching.said())
    watching.process.terminate()
    assert watching.ended()[0] == 130


def test_an_unknown_name_is_told_with_a_near_one(applied: Terminal) -> None:
    for command in ("get", "describe", "logs", "stop"):
        ended = applied.kaitoflow(command, "tunde")
        assert ended.returncode == 1
        assert "did you mean tuned?" in ended.stderr


def test_describe_shows_conditions_and_events(applied: Terminal) -> None:
    applied.write_status("tuned", failed_status("OutOfMemory", "the GPU has too little"))
    uid = applied.object("tuned")["metadata"]["uid"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "tuned.1"},
        "involvedObject": {
            "kind": "Workspace",
            "name": "tuned",
            "namespace": applied.namespace,
            "uid": uid,
        },
        "type": "Normal",
        "reason": "RunStarted",
        "message": "run first was started",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    applied.create(event)
    text = applied.kaitoflow("describe", "tuned").stdout
    assert "the GPU has too little" in text
    [line] = [line for line in text.splitlines() if "RunStarted" in line]
    assert line.split()[:3] == ["2026-01-01T00:00:00Z", "run", "RunStarted"]
    assert line.rstrip().endswith("run first was started")
    told = applied.kaitoflow("events", "tuned").stdout
    assert "run first was started" in told


def test_describe_tells_which_generation_serves_while_a_newer_one_has_failed(
    applied: Terminal,
) -> None:
    status = failed_status("OutOfMemory", "too little")
    status.observed_generation = 2
    status.set_condition(ConditionType.INFERENCE_READY, status="True", reason="R", generation=1)
    applied.write_status("tuned", status)
    said = applied.kaitoflow("describe", "tuned").stdout
    assert "State:      Failed\nServes:     generation 1\n" in said


def test_describe_tells_what_machines_have_cost_up_to_now(applied: Terminal) -> None:
    returned = HeldMachine(
        name="wsa",
        instance_type="Standard_NC48ads_A100_v4",
        capacity_type="on-demand",
        gpus=2,
        price_per_hour=7.5,
        since="2026-01-01T12:00:00Z",
        until="2026-01-01T14:00:00Z",
    )
    assert cost_lines(applied) == []
    assert cost_lines(applied, returned) == ["Cost:       $15.00 for 4.000 GPU-hours"]
    since = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    held = returned.model_copy(update={"name": "wsb", "since": since, "until": ""})
    [line] = cost_lines(applied, returned, held)
    assert line.startswith("Cost:       $22.5")
    assert line.endswith("$7.50 an hour now")


def cost_lines(applied: Terminal, *machines: HeldMachine) -> list[str]:
    """What `describe` says of the cost of these machines."""
    status = running_status()
    status.cost = Cost(machines=[*machines])
    applied.write_status("tuned", status)
    said = applied.kaitoflow("describe", "tuned").stdout.splitlines()
    return [line for line in said if line.startswith("Cost:")]


def test_a_context_that_is_not_there_is_told(terminal: Terminal) -> None:
    ended = terminal.kaitoflow("get", "--context", "elsewhere")
    assert ended.returncode == 1
    assert "KubernetesUnavailable: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_context_alone_means_a_cluster(applied: Terminal) -> None:
    context = yaml.safe_load(applied.kubeconfig.read_text())["current-context"]
    command = ("get", "--platform", "local", "--context", context)
    assert "No workspaces" in applied.kaitoflow(*command).stdout
    assert "tuned" in applied.kaitoflow("get", "--context", context).stdout


@pytest.mark.slow
def test_a_cluster_without_workspaces_says_how_to_install_them(tmp_path: Path) -> None:
    with running_control_plane(tmp_path / "bare") as bare:
        terminal = Terminal(bare, "default", tmp_path, bare.kubeconfig)
        for command in (("get",), ("describe", "tuned"), ("run", terminal.write_tuning())):
            ended = terminal.kaitoflow(*command)
            assert ended.returncode == 1
            assert "NotInstalled: " in ended.stderr
            assert "helm install" in ended.stderr
