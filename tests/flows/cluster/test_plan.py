"""`kaitoflow plan` with a cluster's eyes: what is there, and what its API server would say."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flows.cluster.installed import WORKER
from tests.flows.cluster.conftest import SECRET, Terminal

pytestmark = pytest.mark.cluster


def verdicts(terminal: Terminal, path: str) -> dict[str, tuple[str, str]]:
    shown = json.loads(terminal.kaitoflow("plan", path, "-o", "json").stdout)
    return {check["name"]: (check["result"], check["detail"]) for check in shown["checks"]}


def test_a_plan_that_is_accepted_creates_nothing(terminal: Terminal) -> None:
    ended = terminal.kaitoflow("plan", terminal.write_tuning())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Plan accepted." in ended.stdout
    assert terminal.object("tuned") == {}
    assert terminal.object("push", "secret") == {}


def test_a_secret_of_the_cluster_counts(terminal: Terminal) -> None:
    path = terminal.write_file(terminal.tuning_manifest())
    assert verdicts(terminal, path)["secrets"][0] == "fail"
    terminal.create(SECRET)
    assert verdicts(terminal, path)["secrets"] == ("ok", "push")


def test_a_rule_that_only_the_api_server_knows_refuses_the_plan(terminal: Terminal) -> None:
    terminal.create(terminal.tuning_manifest())
    path = terminal.write_tuning(preset={"name": "phi-4-mini-instruct"})
    assert terminal.kaitoflow("plan", path).returncode == 3
    result, detail = verdicts(terminal, path)["API server"]
    assert result == "fail"
    assert "preset" in detail


def test_a_file_of_this_machine_is_no_dataset_of_a_pod(terminal: Terminal) -> None:
    path = terminal.write_tuning(input={"urls": ["file:rows.parquet"]})
    assert verdicts(terminal, path)["dataset"][0] == "fail"


@contextmanager
def installed_with(terminal: Terminal, **variables: str) -> Iterator[None]:
    """The worker of an installation with these variables, as the chart makes it."""
    container = {
        "name": "worker",
        "image": "control",
        "env": [{"name": name, "value": value} for name, value in variables.items()],
    }
    template = {"metadata": {"labels": WORKER}, "spec": {"containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": WORKER}, "template": template}
    worker = {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": spec}
    terminal.create(worker | {"metadata": {"name": "kaitoflow-worker", "labels": WORKER}})
    yield
    terminal.kubectl("delete", "statefulset", "kaitoflow-worker")


def test_what_the_installation_makes_nodes_of_is_read_off_its_worker(terminal: Terminal) -> None:
    manifest = terminal.tuning_manifest()
    manifest["resource"] = {"instanceType": "Standard_NC4as_T4_v3"}
    path = terminal.write_file(manifest, SECRET)
    with installed_with(terminal, KAITOFLOW_PROVISIONER="karpenter", KAITOFLOW_NAMESPACES="[]"):
        shown = json.loads(terminal.kaitoflow("plan", path, "-o", "json").stdout)
    assert not any("what the installation makes nodes of" in each for each in shown["unchecked"])
    assert "namespace" not in {check["name"] for check in shown["checks"]}


def test_a_namespace_that_the_installation_does_not_run_refuses_the_plan(
    terminal: Terminal,
) -> None:
    path = terminal.write_tuning()
    with installed_with(terminal, KAITOFLOW_NAMESPACES='["team-a", "team-b"]'):
        result, detail = verdicts(terminal, path)["namespace"]
    assert (result, "runs those of team-a, team-b alone" in detail) == ("fail", True)
