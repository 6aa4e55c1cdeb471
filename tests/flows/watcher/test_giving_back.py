"""Nodes go back when no run does it: on stop, and by the schedule; with the chart's rights only."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
import yaml

from tasks.contract.workspace import parse_workspace
from tasks.nodes.claims.node_claim import node_claim
from tasks.nodes.offers import Offer
from tests.builders import tuning_manifest
from tests.flows.prefect import ask
from tests.flows.watcher.clouds import Cloud, claiming_installation, wanting
from tests.flows.watcher.conftest import new_namespace
from tests.flows.watcher.installation import ENDED, Installation, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def claiming(
    control_plane: object,  # builds the programs, or skips
    crowded_prefect: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Kaitoflow installed with provisioner karpenter, which gives leaks no grace."""
    folder = tmp_path_factory.mktemp("claiming")
    with claiming_installation(folder, crowded_prefect, provisioner="karpenter") as made:
        made.settings["KAITOFLOW_GARBAGE_GRACE_S"] = "0"
        made.start_worker()
        made.start("watcher")
        yield made


@pytest.fixture
def cloud(claiming: Installation) -> Iterator[Cloud]:
    """Its nodes go with the test."""
    with ExitStack() as running:
        yield Cloud(claiming, running)


class Prefect:
    """The server's side of the scheduled collection."""

    def __init__(self, api: str) -> None:
        self._api = api

    def call(self, method: str, route: str, body: Any = None) -> Any:
        def answered() -> httpx2.Response | None:
            answer = ask(method, f"{self._api}{route}", json=body)
            # SQLite has one writer; the worker may not have registered its deployments yet.
            return answer if answer.is_success else None

        return wait_until(answered, route).json()

    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/deployments/name/collect-garbage/kaitoflow")
        return found

    def collect(self) -> str:
        """The state in which a collection ends; one that finds another at work is cancelled."""
        while (state := self._collect()) == "CANCELLED":
            pass
        return state

    def _collect(self) -> str:
        route = f"/deployments/{self.deployment()['id']}/create_flow_run"
        run = self.call("POST", route, {})["id"]

        def final() -> str | None:
            state = self.call("GET", f"/flow_runs/{run}")["state"]["type"]
            return str(state) if state in ENDED else None

        return wait_until(final, "the collection")


def test_a_served_workspace_that_is_stopped_gives_its_node_back(
    claiming: Installation, cloud: Cloud
) -> None:
    namespace = new_namespace(claiming)
    claiming.apply(wanting(namespace))
    [claim] = wait_until(cloud.claims, "a claim")
    cloud.fulfil(claim)
    claiming.wait_until_ready(namespace)
    annotate = ("annotate", "workspace", "tuned", "-n", namespace)
    claiming.kubectl(*annotate, "kaitoflow.io/stopped=1")
    wait_until(lambda: not cloud.claims(), "the claim to be gone")
    status = claiming.wait_for(namespace, lambda s: s.get("state") == "Stopped")
    [machine] = status["cost"]["machines"]
    assert machine["until"] >= machine["since"]
    claiming.kubectl(*annotate, "kaitoflow.io/stopped-")
    claiming.wait_until_ready(namespace)
    claiming.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=180s")


def test_the_collection_has_the_rights_that_it_needs(claiming: Installation, cloud: Cloud) -> None:
    manifest = tuning_manifest("gone")
    manifest["metadata"] |= {"namespace": "team", "uid": "gone"}
    leaked = parse_workspace(manifest, source="test")
    claim = node_claim(leaked, Offer(instance_type="Standard_NC6s_v3"), slot=0, disk_gib=100)
    claiming.kubectl("create", "--filename=-", stdin=yaml.safe_dump(claim))
    prefect = Prefect(claiming.prefect_api)
    assert prefect.collect() == "COMPLETED"
    assert cloud.claims() == []
    assert prefect.collect() == "COMPLETED"  # the first has let the only slot go


def test_it_is_done_every_ten_minutes_and_never_twice_at_once(claiming: Installation) -> None:
    deployment = Prefect(claiming.prefect_api).deployment()
    [schedule] = deployment["schedules"]
    assert schedule["schedule"]["interval"] == 600
    assert schedule["active"]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
