"""The endpoint pokes, tells of health and metrics, and nothing else."""

import socket

import httpx2
import pytest

from flows.metrics import ProgramMetrics
from flows.worker.endpoint import poke_worker, serve_endpoint
from tasks.contract.errors import PortInUse


async def test_a_poke_arrives() -> None:
    pokes: list[int] = []
    poke = lambda: pokes.append(1)  # noqa: E731
    async with serve_endpoint(
        "127.0.0.1", 0, poke=poke, health=lambda: (True, {}), metrics=ProgramMetrics()
    ) as port:
        assert await poke_worker(f"http://127.0.0.1:{port}/")
    assert pokes == [1]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "no address", "http://"])
async def test_a_poke_that_nobody_hears_raises_nothing(url: str) -> None:
    assert not await poke_worker(url)


@pytest.mark.parametrize(("is_well", "status"), [(True, 200), (False, 503)])
async def test_health_is_told(is_well: bool, status: int) -> None:
    health = {"runs": 3}
    async with (
        serve_endpoint(
            "127.0.0.1",
            0,
            poke=lambda: None,
            health=lambda: (is_well, health),
            metrics=ProgramMetrics(),
        ) as port,
        httpx2.AsyncClient() as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/healthz")
    assert (answer.status_code, answer.json()) == (status, health)


async def test_metrics_are_told_as_prometheus_reads_them() -> None:
    metrics = ProgramMetrics()
    metrics.prefect_answered("GET", 200, 0.1)
    async with (
        serve_endpoint(
            "127.0.0.1", 0, poke=lambda: None, health=lambda: (True, {}), metrics=metrics
        ) as port,
        httpx2.AsyncClient() as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert 'request_duration_seconds_count{api="prefect",method="GET"} 1.0' in answer.text


async def test_a_taken_port_is_told_with_the_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUse, match="choose another with --port"):
            async with serve_endpoint(
                "127.0.0.1",
                other.getsockname()[1],
                poke=lambda: None,
                health=lambda: (True, {}),
                metrics=ProgramMetrics(),
            ):
                pass
