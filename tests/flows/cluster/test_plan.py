"""`kaitoflow plan` with a cluster's eyes: what is there, and what its API server would say."""

import json

import pytest

from tests.builders import tuning_manifest
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
    path = terminal.write_file(tuning_manifest())
    assert verdicts(terminal, path)["secrets"][0] == "fail"
    terminal.create(SECRET)
    assert verdicts(terminal, path)["secrets"] == ("ok", "push")


def test_a_rule_that_only_the_api_server_knows_refuses_the_plan(terminal: Terminal) -> None:
    terminal.create(tuning_manifest())
    path = terminal.write_tuning(preset={"name": "phi-4-mini-instruct"})
    assert terminal.kaitoflow("plan", path).returncode == 3
    result, detail = verdicts(terminal, path)["API server"]
    assert result == "fail"
    assert "preset" in detail


def test_a_file_of_this_machine_is_no_dataset_of_a_pod(terminal: Terminal) -> None:
    path = terminal.write_tuning(input={"urls": ["file:rows.parquet"]})
    assert verdicts(terminal, path)["dataset"][0] == "fail"
