"""`kaitoflow server` keeps a schedule in Prefect for each Workspace that asks for one."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.contract.workspace import Manifests, parse_workspace
from tasks.platform.store import Store
from tests.builders import tuning_manifest
from tests.flows.conftest import Installation
from tests.flows.prefect import ask

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
