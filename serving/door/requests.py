"""Each request's id, which client and log have in common, and its one line in the log.

The line says who asked what of which model and what became of it, and nothing of what was said.
"""

import logging
import re
import time
import uuid

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

HEADER = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Asked every few seconds by probes and Prometheus.
_LOOKS = {"/health", "/live", "/metrics"}


def install(app: FastAPI) -> None:
    """Give each request an id, its client's own where that is one, and log how it went."""
    app.add_middleware(_Requests)


class _Requests:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given, began_s, status = Headers(scope=scope).get(HEADER, ""), time.monotonic(), 500
        request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, with_id)
        finally:
            _tell(scope, status, seconds=time.monotonic() - began_s)


def _tell(scope: Scope, status: int, *, seconds: float) -> None:
    # As it was sent, where a line break is %0A.
    state, path = scope["state"], (scope.get("raw_path") or b"").decode("ascii", "replace")
    account = state.get("account")
    log.log(
        logging.DEBUG if path in _LOOKS else logging.INFO,
        "request id=%s method=%s path=%s status=%d model=%s tokens=%d milliseconds=%.0f key=%s",
        state["request_id"],
        scope["method"],
        path[:200],
        status,
        state.get("model", "-"),
        state.get("tokens", 0),
        1000 * seconds,
        account.name if account else "-",
    )
