"""`kaitoflow server` keeps schedules in Prefect, and questions, as the Workspaces ask for them."""

import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.contract.adapter_history import AdapterRecord, Fate
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.platform.store import Store
from tests.builders import tuning_manifest
from tests.flows.conftest import Installation
from tests.flows.prefect import ask
from tests.flows.retuned import waits_for_a_word

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
WAIT_S = 150


@pytest.fixture(scope="module")
def serving(shared_installation: Installation) -> Iterator[Installation]:
    """An installation whose `kaitoflow server` runs."""
    server = shared_installation.start("server")
    log = shared_installation.home / "started.log"
    waited_for(lambda: "Start a run" in log.read_text())
    yield shared_installation
    server.send_signal(signal.SIGINT)
    assert server.wait(60) in (0, 130)


def waited_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.5)
    return found


def api(serving: Installation, route: str) -> str:
    return f"{serving.environment['PREFECT_API_URL']}{route}"


def schedules_route(serving: Installation) -> str:
    found = ask("GET", api(serving, "/deployments/name/retune-workspace/local")).json()
    return api(serving, f"/deployments/{found['id']}/schedules")


def schedule(serving: Installation, slug: str) -> dict[str, Any] | None:
    found = ask("GET", schedules_route(serving)).json()
    return next((each for each in found if each["slug"] == slug), None)


def apply(serving: Installation, name: str, **annotations: str) -> Store:
    manifest = tuning_manifest(name)
    manifest["metadata"]["annotations"] = {f"kaitoflow.io/{k}": v for k, v in annotations.items()}
    store = Store(serving.home)
    store.apply(Manifests(workspace=parse_workspace(manifest, source="test")))
    return store


def test_a_schedule_comes_changes_and_goes_with_its_workspace_and_stays_paused(
    serving: Installation,
) -> None:
    store = apply(serving, "weekly", **{"retune-schedule": "0 3 * * 1 Europe/Berlin"})
    made = waited_for(lambda: schedule(serving, "default/weekly"))
    assert made["active"]
    assert made["schedule"]["timezone"] == "Europe/Berlin"
    assert made["parameters"] == {"namespace": "default", "name": "weekly"}
    ask("PATCH", f"{schedules_route(serving)}/{made['id']}", json={"active": False})
    assert "Retunes:    paused in Prefect (0 3 * * 1 Europe/Berlin)" in (
        serving.kaitoflow("describe", "weekly").stdout
    )
    apply(serving, "weekly", **{"retune-schedule": "6h"})

    def changed() -> dict[str, Any] | None:
        now = schedule(serving, "default/weekly")
        return now if now and "interval" in now["schedule"] else None

    assert not waited_for(changed)["active"]
    found = store.find("default", "weekly")
    assert found
    store.delete(found.workspace)
    waited_for(lambda: schedule(serving, "default/weekly") is None)


def test_a_schedule_that_is_due_starts_a_retuning(serving: Installation) -> None:
    store = apply(serving, "often", **{"retune-schedule": "10s"})

    def ended() -> dict[str, Any] | None:
        body = {"flow_runs": {"name": {"any_": ["retune default/often"]}}}
        runs = ask("POST", api(serving, "/flow_runs/filter"), json=body).json()
        return next((run for run in runs if run["state_type"] == "FAILED"), None)

    assert "it was not tuned yet" in waited_for(ended)["state"]["message"]
    found = store.find("default", "often")
    assert found
    store.delete(found.workspace)


def waiting(serving: Installation, name: str, *, days: float) -> Workspace:
    """A Workspace whose second adapter waits so long for a word."""
    answer_by = datetime.now(UTC) + timedelta(days=days)
    return waits_for_a_word(Store(serving.home), name, answer_by=answer_by)


def question(serving: Installation, workspace: Workspace, state: str) -> Any:
    """The run that asks about it, once it is in a state."""

    def there() -> dict[str, Any] | None:
        body = {"flow_runs": {"name": {"any_": [f"approve {workspace}@2"]}}}
        runs = ask("POST", api(serving, "/flow_runs/filter"), json=body).json()
        return next((run for run in runs if run["state_type"] == state), None)

    return waited_for(there)


def candidate(serving: Installation, workspace: Workspace) -> AdapterRecord:
    return Store(serving.home).read_status(workspace).adapters.find(2)


def test_a_person_who_is_asked_refuses_and_says_why(serving: Installation) -> None:
    workspace = waiting(serving, "asked", days=7)
    run = question(serving, workspace, "PAUSED")
    assert run["state_name"] == "Suspended"
    word = {"run_input": {"approve": "no", "note": "it is rude"}}
    answer = ask("POST", api(serving, f"/flow_runs/{run['id']}/resume"), json=word).json()
    assert answer["status"] == "ACCEPT", answer
    ended = question(serving, workspace, "COMPLETED")
    assert (ended["id"], ended["state_name"]) == (run["id"], "Decided")
    told = candidate(serving, workspace)
    assert (told.fate, told.by, told.why) == (Fate.KEPT_OUT, "Prefect", "it is rude")


def test_a_question_that_the_command_line_answers_waits_no_more(serving: Installation) -> None:
    workspace = waiting(serving, "told", days=7)
    question(serving, workspace, "PAUSED")
    said = serving.kaitoflow("promote", "told", "--refuse", "--note", "it is rude")
    assert said.returncode == 0, said.stderr
    assert "told@1 serves" in said.stdout
    assert candidate(serving, workspace).why == "it is rude"
    assert question(serving, workspace, "COMPLETED")["state_name"] == "Decided"


def test_who_says_nothing_in_time_keeps_what_serves(serving: Installation) -> None:
    workspace = waiting(serving, "unheard", days=-1)
    assert question(serving, workspace, "COMPLETED")["state_name"] == "Decided"
    told = candidate(serving, workspace)
    assert (told.fate, told.by) == (Fate.KEPT_OUT, "time limit")
    assert told.why == f"nobody gave a word until {told.answer_by}"
