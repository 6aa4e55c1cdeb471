"""`kaitoflow plan` with a cluster's eyes: what is there, and what its API server would say."""

import json

import pytest

from tests.builders import tuning_manifest
from tests.flows.cluster.conftest import SECRET, Cluster

pytestmark = pytest.mark.cluster


def verdicts(cluster: Cluster, path: str) -> dict[str, tuple[str, str]]:
    shown = json.loads(cluster.kaitoflow("plan", path, "-o", "json").stdout)
    return {check["name"]: (check["result"], check["detail"]) for check in shown["checks"]}


def test_a_plan_that_is_accepted_creates_nothing(cluster: Cluster) -> None:
    ended = cluster.kaitoflow("plan", cluster.write_tuning())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Plan accepted." in ended.stdout
    assert cluster.object("tuned") == {}
    assert cluster.object("push", "secret") == {}


def test_a_secret_of_the_cluster_counts(cluster: Cluster) -> None:
    path = cluster.write_file(tuning_manifest())
    assert verdicts(cluster, path)["secrets"][0] == "fail"
    cluster.create(SECRET)
    assert verdicts(cluster, path)["secrets"] == ("ok", "push")


def test_a_rule_that_only_the_api_server_knows_refuses_the_plan(cluster: Cluster) -> None:
    cluster.create(tuning_manifest())
    path = cluster.write_tuning(preset={"name": "phi-4-mini-instruct"})
    assert cluster.kaitoflow("plan", path).returncode == 3
    result, detail = verdicts(cluster, path)["API server"]
    assert result == "fail"
    assert "preset" in detail


def test_a_file_of_this_machine_is_no_dataset_of_a_pod(cluster: Cluster) -> None:
    path = cluster.write_tuning(input={"urls": ["file:rows.parquet"]})
    assert verdicts(cluster, path)["dataset"][0] == "fail"
