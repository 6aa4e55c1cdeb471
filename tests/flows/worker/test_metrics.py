"""What a worker tells Prometheus: the runs that it holds, those that ended, and the last leaks."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from flows import collect_garbage
from flows.collect_garbage import Collection
from flows.worker.engine import observe
from flows.worker.metrics import WorkerMetrics
from tasks.nodes.garbage.leaks import Leak, LeakKind
from tests.flows.prometheus import samples

MINUTE_S = 60.0


def test_runs_are_told_by_where_they_stand() -> None:
    metrics = WorkerMetrics()
    held = ["waiting", "running", "running"]
    metrics.watch(lambda: held, limit=20, poll_age_s=lambda: 1.5)
    assert samples(metrics, "kaitoflow_worker_runs") == {
        ("waiting",): 1,
        ("running",): 2,
        ("ending",): 0,
    }
    assert samples(metrics, "kaitoflow_worker_runs_limit") == {(): 20}
    assert samples(metrics, "kaitoflow_worker_poll_age_seconds") == {(): 1.5}


def test_runs_that_have_ended_are_counted_by_flow_and_state() -> None:
    metrics = WorkerMetrics()
    for state in ("COMPLETED", "FAILED", "FAILED"):
        metrics.ended("run-workspace", state)
    assert samples(metrics, "kaitoflow_runs_ended_total") == {
        ("run-workspace", "COMPLETED"): 1,
        ("run-workspace", "FAILED"): 2,
    }


def leak(kind: LeakKind, price: float | None) -> Leak:
    return Leak(
        kind=kind,
        name="a",
        workspace="",
        instance_type="nc4",
        capacity_type="spot",
        since=datetime.now(UTC),
        price_per_hour=price,
    )


def test_the_leaks_of_the_last_collection_are_told_until_another_worker_collects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = [leak(LeakKind.NO_CLAIM, 0.5), leak(LeakKind.NO_CLAIM, None)]
    metrics = WorkerMetrics()
    assert samples(metrics, "kaitoflow_leaks") == {}
    monkeypatch.setattr(collect_garbage, "_done", [Collection(time.time() - MINUTE_S, kept)])
    found = samples(metrics, "kaitoflow_leaks")
    assert (found[("pool-without-claim",)], sum(found.values()), len(found)) == (
        2,
        2,
        len(LeakKind),
    )
    assert sum(samples(metrics, "kaitoflow_leaks_usd_per_hour").values()) == 0.5
    monkeypatch.setattr(collect_garbage, "_done", [Collection(time.time() - 31 * MINUTE_S, kept)])
    assert samples(metrics, "kaitoflow_leaks") == {}


@pytest.mark.parametrize(("status", "told"), [(200, 200), (503, 503), (None, 0)])
async def test_requests_of_prefects_client_are_told(status: int | None, told: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("nobody there", request=request)
        return httpx.Response(status)

    answered: list[tuple[str, int]] = []
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        prefect: Any = SimpleNamespace(_client=client)
        observe(prefect, lambda method, code, _seconds: answered.append((method, code)))
        try:
            await client.get("http://prefect/api")
        except httpx.ConnectError:
            assert status is None
    assert answered == [("GET", told)]
