"""The worker's small HTTP endpoint: GET /healthz and /metrics, POST /poke for the watcher.

A poke only makes the next question for runs come earlier, so it needs no token; and a poke that
is lost costs one polling interval.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
from aiohttp import web

from flows.metrics import ProgramMetrics
from tasks.contract.errors import PortInUse

_POKE_TIMEOUT_S = 2.0


async def poke_worker(url: str) -> bool:
    """Tell the worker at `url` that there is a new run; whether it heard. Raises nothing.

    Args: url: the endpoint's base, such as http://kaitoflow-worker:8787.
    """
    try:
        # The endpoint has no TLS; to load its authorities took half of the watcher's time.
        async with httpx2.AsyncClient(
            timeout=_POKE_TIMEOUT_S,
            trust_env=False,
            verify=False,
        ) as client:
            answer = await client.post(f"{url.rstrip('/')}/poke")
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return False
    return answer.is_success


@contextlib.asynccontextmanager
async def serve_endpoint(
    host: str,
    port: int,
    *,
    poke: Callable[[], None],
    health: Callable[[], tuple[bool, Any]],
    metrics: ProgramMetrics,
) -> AsyncIterator[int]:
    """Listen for as long as the context lasts; the port, which matters when 0 was asked for.

    Args: health: whether the worker is well, and what to say of it as JSON.
    Raises: PortInUse: somebody else listens there.
    """

    async def answer_health(_request: web.Request) -> web.Response:
        is_well, told = health()
        return web.json_response(told, status=200 if is_well else 503)

    async def answer_poke(_request: web.Request) -> web.Response:
        poke()
        return web.Response(status=202)

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", answer_health),
            web.get("/metrics", metrics.answer),
            web.post("/poke", answer_poke),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise PortInUse(
                f"the worker was asked to listen on {host}:{port}",
                f"{error.strerror}",
                "choose another with --port, or 0 for any",
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
