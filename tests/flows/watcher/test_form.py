"""Prefect's form on a cluster: what it asks for is applied, and run by the watcher's run alone."""

from typing import Any

import httpx2
import pytest
import yaml

from tests.flows.prefect import ask
from tests.flows.watcher.installation import (
    ENDED,
    Installation,
    wait_until,
    workspace_manifest,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]


def call(installed: Installation, method: str, route: str, body: Any = None) -> dict[str, Any]:
    """The answer of Prefect, whose worker has yet to deploy."""

    def answered() -> httpx2.Response | None:
        answer = ask(method, f"{installed.prefect_api}{route}", json=body)
        return None if answer.status_code == httpx2.codes.NOT_FOUND else answer

    found: dict[str, Any] = wait_until(answered, route).raise_for_status().json()
    return found


def sent(installed: Installation, form: dict[str, Any]) -> dict[str, Any]:
    """The run of a form, once it has ended."""
    deployment = call(installed, "GET", "/deployments/name/tune-and-serve/tune-and-serve")
    route = f"/deployments/{deployment['id']}/create_flow_run"
    run = call(installed, "POST", route, {"parameters": {"workspace": form}})

    def ended() -> dict[str, Any] | None:
        now = call(installed, "GET", f"/flow_runs/{run['id']}")
        return now if now["state_type"] in ENDED else None

    return wait_until(ended, "the form's run")


def pasted(manifest: dict[str, Any]) -> dict[str, Any]:
    return {"whole_yaml": yaml.safe_dump(manifest)}


def test_the_fields_are_applied_with_their_training_and_run_once(
    installed: Installation, workspace_namespace: str
) -> None:
    form = {
        "name": "tuned",
        "namespace": workspace_namespace,
        "dataset": "https://user:canary@example.com/data.parquet",
        "node_label": "apps=tuning",
        "image": "registry.example.com/adapters/form:1",
        "push_secret": "push",
        "training": {"rank": 16},
    }
    run = sent(installed, form)
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "HandedOver"), run["state"]
    assert "canary" not in str(run["parameters"])
    installed.expect_one_run(workspace_namespace)
    made = installed.get("workspace", workspace_namespace, "tuned")
    assert "canary" in made["tuning"]["input"]["urls"][0]
    settings = installed.get("configmap", workspace_namespace, made["tuning"]["config"])
    assert "r: 16" in settings["data"]["training_config.yaml"]
    assert made["status"]["flowRunId"] in run["state"]["message"]


def test_what_the_watchers_run_refuses_is_the_end_of_the_forms_run(
    installed: Installation, workspace_namespace: str
) -> None:
    wrong = workspace_manifest(workspace_namespace)
    wrong["tuning"]["output"]["imagePushSecret"] = "absent"
    run = sent(installed, pasted(wrong))
    told = {c["type"]: c for c in installed.status(workspace_namespace)["conditions"]}
    assert run["state_type"] == "FAILED"
    assert told["Accepted"]["message"] in run["state"]["message"]


def test_what_the_api_server_refuses_is_applied_nowhere(
    installed: Installation, workspace_namespace: str
) -> None:
    wrong = workspace_manifest(workspace_namespace, input={"urls": ["file:rows.jsonl"]})
    run = sent(installed, pasted(wrong))
    assert run["state_type"] == "FAILED"
    assert installed.names("workspaces", workspace_namespace) == []
