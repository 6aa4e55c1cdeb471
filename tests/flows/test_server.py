"""`kaitoflow server` offers a form for a run in Prefect, and a worker that executes it."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.builders import tuning_manifest
from tests.flows.conftest import Installation
from tests.flows.prefect import ask

pytestmark = pytest.mark.timeout(300)
WAIT_S = 120


@pytest.fixture
def deployment(installation: Installation) -> Iterator[dict[str, Any]]:
    """The deployment, with a worker that waits for its runs."""
    worker = installation.start("server")
    deadline = time.monotonic() + WAIT_S
    # Not the deployment itself: it may be there from an earlier test.
    while "Start a run" not in (installation.home / "started.log").read_text():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    found = waited_for(installation, "/deployments/name/run-workspace/local", lambda _d: True)
    yield found
    worker.send_signal(signal.SIGINT)
    assert worker.wait(60) in (0, 130)


def waited_for(installation: Installation, route: str, condition: Any) -> dict[str, Any]:
    url = installation.environment["PREFECT_API_URL"] + route
    deadline = time.monotonic() + WAIT_S
    while True:
        answer = ask("GET", url)
        if answer.status_code == httpx2.codes.OK and condition(answer.json()):
            found: dict[str, Any] = answer.json()
            return found
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.5)


def test_the_form_asks_for_a_workspace(deployment: dict[str, Any]) -> None:
    schema = deployment["parameter_openapi_schema"]
    assert {"workspace", "push", "port"} == set(schema["properties"])
    assert {"tuning", "inference", "metadata"} <= set(
        schema["definitions"]["Workspace"]["properties"]
    )


def test_a_run_works_in_the_server_s_folder_and_copies_nothing(deployment: dict[str, Any]) -> None:
    [step] = deployment["pull_steps"]
    chosen = {"directory": str(Path.cwd())}
    assert step == {"prefect.deployments.steps.set_working_directory": chosen}


def test_a_run_from_the_form_is_executed_and_its_refusal_told(
    deployment: dict[str, Any], installation: Installation
) -> None:
    manifest = tuning_manifest("formed", input={"urls": ["file:///no/such/rows.jsonl"]})
    url = f"{installation.environment['PREFECT_API_URL']}/deployments/{deployment['id']}"
    body = {"parameters": {"workspace": manifest}}
    run = ask("POST", f"{url}/create_flow_run", json=body).json()
    ended = waited_for(
        installation,
        f"/flow_runs/{run['id']}",
        lambda state: state["state_type"] in ("FAILED", "COMPLETED", "CRASHED"),
    )
    # What was typed is replaced by what names the object, which keeps the addresses' secrets.
    assert ended["parameters"]["workspace"]["metadata"]["uid"]
    assert ended["state_type"] == "FAILED"
    assert "there is no such file" in ended["state"]["message"]
    conditions = installation.object("formed")["status"]["conditions"]
    assert (conditions[0]["type"], conditions[0]["reason"]) == ("Accepted", "DatasetUnreachable")
