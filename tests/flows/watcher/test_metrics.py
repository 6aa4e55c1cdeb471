"""What the watcher tells Prometheus follows from the Workspaces that it has seen last."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.metrics import ProgramMetrics
from flows.watcher.metrics import WatcherMetrics, start_class
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.status import State, WorkspaceStatus, fresh_status
from tasks.contract.units import utc_text
from tests.flows.prometheus import samples


def watching(statuses: Iterable[WorkspaceStatus | dict[str, Any]]) -> WatcherMetrics:
    metrics = WatcherMetrics()
    manifests = [
        {"status": s if isinstance(s, dict) else s.model_dump(mode="json", by_alias=True)}
        for s in statuses
    ]
    metrics.watch(lambda: manifests, age_s=lambda: 7.0, looks=lambda: 3)
    return metrics


def failed(reason: str) -> WorkspaceStatus:
    status = fresh_status(1)
    status.end_without(State.FAILED, reason=reason, message="m")
    return status


def holding(*machines: HeldMachine) -> WorkspaceStatus:
    return WorkspaceStatus(state=State.READY, cost=Cost(machines=[*machines]))


def machine(name: str, *, price: float | None, hours: float = 2, until: str = "") -> HeldMachine:
    since = utc_text(datetime.now(UTC) - timedelta(hours=hours))
    return HeldMachine(
        name=name,
        instance_type="nc4",
        capacity_type="spot",
        gpus=1,
        price_per_hour=price,
        since=since,
        until=until,
    )


def test_workspaces_are_counted_by_state_and_reason() -> None:
    statuses = [failed("DiskFull"), failed("DiskFull"), failed("NodeLost"), fresh_status(1)]
    found = samples(watching(statuses), "kaitoflow_workspaces")
    assert {told: number for told, number in found.items() if number} == {
        ("DiskFull", "Failed"): 2,
        ("NodeLost", "Failed"): 1,
        ("", "Pending"): 1,
    }
    assert {("", state.value) for state in State} <= set(found)


def test_one_that_no_run_has_looked_at_and_one_with_a_hand_made_status_are_counted() -> None:
    odd = {"state": "Odd", "reason": "x" * 99, "cost": {"machines": [{"since": "yesterday"}]}}
    statuses: list[Any] = [{}, {"state": "Pending", "reason": "NotYet"}, odd]
    found = samples(watching(statuses), "kaitoflow_workspaces")
    assert {told for told, number in found.items() if number} == {
        ("", "Pending"),
        ("NotYet", "Pending"),
        ("Other", "Pending"),
    }


def test_what_is_held_is_told_with_its_price_and_what_is_unpriced_too() -> None:
    ago = utc_text(datetime.now(UTC) - timedelta(hours=1))
    metrics = watching(
        [
            holding(machine("a", price=0.5), machine("b", price=None)),
            holding(machine("c", price=1.5), machine("gone", price=4, until=ago)),
        ]
    )
    kind = ("spot", "nc4")
    assert samples(metrics, "kaitoflow_nodes_held") == {kind: 3}
    assert samples(metrics, "kaitoflow_nodes_held_unpriced") == {kind: 1}
    assert samples(metrics, "kaitoflow_nodes_held_usd_per_hour") == {kind: 2.0}
    # Two hours at 1.50, one at 4.00; of a Workspace with an unknown price nothing is known.
    assert samples(metrics, "kaitoflow_workspaces_cost_usd")[()] == pytest.approx(7.0, abs=0.02)


def test_the_watch_and_what_waits_are_told() -> None:
    metrics = watching([])
    metrics.leading.set(1)
    for name, value in (
        ("kaitoflow_watcher_leading", 1),
        ("kaitoflow_watcher_watch_age_seconds", 7),
        ("kaitoflow_watcher_looks", 3),
        ("kaitoflow_watcher_runs_being_created", 0),
        ("kaitoflow_nodes_held", None),
    ):
        assert samples(metrics, name).get(()) == value, name


@pytest.mark.parametrize(
    ("generation", "attempt", "reason", "expected"),
    [
        (1, 0, "", "new"),
        (2, 0, "", "edit"),
        (2, 1, "edit: annotation kaito.sh/serve", "edit"),
        (2, 1, "repair: Service web deleted", "repair"),
        (1, 3, "looked at again: SecretNotFound", "retry"),
        (1, 1, "", "again"),
    ],
)
def test_a_start_is_counted_by_its_class(
    generation: int, attempt: int, reason: str, expected: str
) -> None:
    assert start_class(generation, attempt, reason) == expected
    metrics = WatcherMetrics()
    metrics.started(generation=generation, attempt=attempt, reason=reason)
    assert samples(metrics, "kaitoflow_starts_total") == {(expected,): 1}


def test_requests_are_told_by_server_and_what_went_wrong_by_status() -> None:
    metrics = ProgramMetrics()
    metrics.kubernetes_answered("GET", 200, 0.02)
    metrics.kubernetes_answered("GET", 404, 0.03)
    metrics.prefect_answered("POST", 503, 0.5)
    metrics.prefect_answered("POST", 0, 30.0)
    taken = samples(metrics, "kaitoflow_api_request_duration_seconds_count")
    assert taken == {("kubernetes", "GET"): 2, ("prefect", "POST"): 2}
    errors = samples(metrics, "kaitoflow_api_request_errors_total")
    assert errors == {("kubernetes", "404"): 1, ("prefect", "503"): 1, ("prefect", "none"): 1}
