"""A gate before the API server: all of a program's requests go through it, and it may hold some.

It speaks HTTP to the program and TLS to the API server, in a thread of its own. A program that is
killed while one of its requests is held has died at exactly that moment.
"""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

from tests.cluster.control_plane import ControlPlane

_LOOK_AGAIN_S = 0.1
_PER_HOP = {"host", "connection", "transfer-encoding", "content-length"}
Chosen = Callable[[str, str], bool]


@dataclass
class Gate:
    """What it holds may be changed at any time; `url` is where programs find the API server."""

    url: str = ""
    held: dict[str, Chosen] = field(default_factory=dict)
    """Requests, by "METHOD path" and body, that are not forwarded."""
    unheard: dict[str, Chosen] = field(default_factory=dict)
    """Requests that are forwarded, and their answers kept back."""
    waiting: set[str] = field(default_factory=set)
    """The names of those that hold something now."""
    is_silent: bool = False
    """Whether watches are told nothing more, without an end: as by a network that swallows all."""
    is_forgetful: bool = False
    """Whether watches ask for changes since the cluster's first day, which are not kept so long."""
    expired: int = 0
    """How many watches the API server ended for that."""
    era: int = 0

    def end_watches(self) -> None:
        """End all watches that there are, as the API server does every few minutes."""
        self.era += 1


@contextmanager
def gate_before(control_plane: ControlPlane) -> Iterator[Gate]:
    """A gate for as long as the context lasts."""
    gate, loop = Gate(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gate")
    thread.start()
    keeper = _Keeper(gate, control_plane)
    try:
        asyncio.run_coroutine_threadsafe(keeper.start(), loop).result(30)
        yield gate
    finally:
        asyncio.run_coroutine_threadsafe(keeper.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Keeper:
    def __init__(self, gate: Gate, control_plane: ControlPlane) -> None:
        self._gate, self._server = gate, control_plane.url
        self._trusted = ssl.create_default_context(cafile=control_plane.ca_file)

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trusted, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept"),
        )
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._pass)
        # Who goes away is not answered, nor is what it asked for done later.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._gate.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        about = f"{request.method} {request.path}", body.decode()
        await self._hold(self._gate.held, *about)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _PER_HOP}
        try:
            async with self._session.request(
                request.method, self._url(request), headers=headers, data=body or None
            ) as answer:
                await self._hold(self._gate.unheard, *about)
                return await self._answer(request, answer)
        except (aiohttp.ClientError, OSError):
            return self._hang_up(request)

    async def _hold(self, rules: dict[str, Chosen], request: str, body: str) -> None:
        for name in [name for name, chosen in rules.items() if chosen(request, body)]:
            self._gate.waiting.add(name)
            try:
                while name in rules:
                    await asyncio.sleep(_LOOK_AGAIN_S)
            finally:
                self._gate.waiting.discard(name)

    def _url(self, request: web.Request) -> URL:
        url = URL(self._server + request.path_qs, encoded=True)
        if self._gate.is_forgetful and _is_watch(request):
            return url.update_query(resourceVersion="1")
        return url

    async def _answer(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in _PER_HOP}
        ours = web.StreamResponse(status=answer.status, headers=headers)
        await ours.prepare(request)
        chunks = self._watched(answer) if _is_watch(request) else answer.content.iter_any()
        async for chunk in chunks:
            await ours.write(chunk)
        return ours

    async def _watched(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        era = self._gate.era
        reading = asyncio.ensure_future(answer.content.readany())
        try:
            while self._gate.era == era:
                await asyncio.wait({reading}, timeout=_LOOK_AGAIN_S)
                if self._gate.is_silent or not reading.done():
                    continue
                if not (chunk := reading.result()):
                    return
                self._gate.expired += b'"code":410' in chunk
                yield chunk
                reading = asyncio.ensure_future(answer.content.readany())
        finally:
            reading.cancel()

    @staticmethod
    def _hang_up(request: web.Request) -> web.StreamResponse:
        """As the API server did."""
        with suppress(AttributeError):
            request.transport.abort()  # type: ignore[union-attr]
        return web.Response(status=502)


def _is_watch(request: web.Request) -> bool:
    return request.query.get("watch") == "true"
