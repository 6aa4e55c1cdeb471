"""`kaitoflow worker`: register the deployments, then await their runs until asked to stop."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import Any

from flows.heap import settle_heap
from flows.pools import CLUSTER_POOL
from flows.prefect_server import prefect_server
from flows.worker.deployments import deploy
from flows.worker.settings import WorkerSettings
from tasks.settings import read_settings

_SERVER_TIMEOUT_S = 300.0


def serve_runs(*, pool: str | None, name: str | None, limit: int | None, port: int | None) -> int:
    """Work until interrupted; runs that are under way are handed on to the next worker."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    chosen: dict[str, Any] = {"limit": limit, "port": port}
    settings = read_settings(WorkerSettings, **{k: v for k, v in chosen.items() if v is not None})
    # On a cluster both start at once, in any order.
    with prefect_server(patience_s=_SERVER_TIMEOUT_S):
        work = _work(pool or CLUSTER_POOL, name or socket.gethostname(), settings)
        asyncio.run(work)
    return 0


async def _work(pool: str, name: str, settings: WorkerSettings) -> None:
    from flows.worker.in_process import InProcessWorker
    from tasks.platform.current import current_platform

    await deploy(pool)
    worker = InProcessWorker(pool, name=name, settings=settings)
    current_platform().on_answer = worker.metrics.kubernetes_answered
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
