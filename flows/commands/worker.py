"""`kaitoflow worker`: register the deployments, then await their runs until asked to stop."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from typing import Any

import httpx2

from flows.heap import settle_heap
from flows.prefect_server import prefect_server
from flows.worker.deployments import CLUSTER_POOL, deploy
from flows.worker.settings import WorkerSettings
from tasks.contract.errors import PrefectUnavailable
from tasks.settings import read_settings

_SERVER_TIMEOUT_S = 300.0
_PROBE_S = 1.0


def serve_runs(*, pool: str | None, name: str | None, limit: int | None, port: int | None) -> int:
    """Work until interrupted; runs that are under way are handed on to the next worker."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    chosen: dict[str, Any] = {"limit": limit, "port": port}
    settings = read_settings(WorkerSettings, **{k: v for k, v in chosen.items() if v is not None})
    with prefect_server() as server:
        _await_server(server.api_url)
        work = _work(pool or CLUSTER_POOL, name or socket.gethostname(), settings)
        asyncio.run(work)
    return 0


def _await_server(api_url: str) -> None:
    """Wait for Prefect's server: on a cluster both start at once, in any order."""
    deadline = time.monotonic() + _SERVER_TIMEOUT_S
    with httpx2.Client(timeout=5) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.HTTPError):
                if client.get(f"{api_url}/health").is_success:
                    return
            time.sleep(_PROBE_S)
    raise PrefectUnavailable(
        f"a Prefect server was asked for at {api_url}",
        f"it did not answer within {_SERVER_TIMEOUT_S:.0f} s",
        "see that it runs, or set PREFECT_API_URL to another",
    )


async def _work(pool: str, name: str, settings: WorkerSettings) -> None:
    from flows.worker.in_process import InProcessWorker

    await deploy(pool)
    worker = InProcessWorker(pool, name=name, settings=settings)
    settle_heap()
    work = asyncio.ensure_future(worker.start(printer=_say))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, work)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def _stop(work: "asyncio.Future[None]") -> None:
    """Stop once only: a second signal must not interrupt the handing on of runs."""
    if not work.cancelling():  # type: ignore[attr-defined]
        work.cancel()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
