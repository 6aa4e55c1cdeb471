"""What web pages may ask: the server's own one and those of the origins it was told of, no others.

A browser sends what any page tells it to, to any server that its user reaches. Such a page must
neither have work done nor read an answer; programs that are no browsers send no `Origin`.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ApiError, shown
from serving.metrics import Metrics
from tasks.contract.programs.serving import ServerConfig

_SETTING = "KAITOFLOW_SERVER_CORS_ORIGINS"
_READ_ONLY = ("GET", "HEAD", "OPTIONS")
# What a page may send without its browser asking the server first, but for a form's own type: that
# is what curl -d claims, and KAITO's documents use it.
_SENT_UNASKED = ("text/plain", "multipart/form-data")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def install(app: FastAPI, config: ServerConfig, metrics: Metrics) -> None:
    """Refuse pages of other sites, and have browsers show answers to those that were named."""
    app.add_middleware(_Guard, config=config, metrics=metrics)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=[
                "Retry-After",
                "X-Kaitoflow-Generation",
                "X-Kaitoflow-Unenforced",
                "X-Request-Id",
            ],
        )


class _Guard:
    """Refuses before a route or a body is looked at."""

    def __init__(self, app: ASGIApp, *, config: ServerConfig, metrics: Metrics) -> None:
        self._app = app
        self._origins = config.cors_origins
        self._own_host = config.host if _is_loopback(config.host) else None
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http":
                self._check(scope["method"], Headers(scope=scope))
        except ApiError as error:
            self._metrics.refused.labels(str(error.status)).inc()
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, method: str, headers: Headers) -> None:
        """Nothing, or ApiError 403 or 415."""
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and self._own_host and "*" not in self._origins:
            _check_host(host, self._own_host, self._origins)
        if method in _READ_ONLY:
            return
        if origin is not None and not self._may_ask(origin, host or ""):
            raise ApiError(
                403,
                f"a page of {shown(origin)} asked, this server answers its own page and those that"
                f" {_SETTING} names; add the origin there",
                code="foreign_origin",
            )
        claimed = headers.get("content-type", "").partition(";")[0].strip().lower()
        if claimed in _SENT_UNASKED:
            raise ApiError(
                415,
                f"the body claims to be {claimed}, JSON was expected; send it with"
                " Content-Type: application/json",
            )

    def _may_ask(self, origin: str, host: str) -> bool:
        if {"*", origin} & {*self._origins}:
            return True
        scheme, _, place = origin.partition("://")
        return bool(place) and _place(place, scheme) == _place(host, scheme)


def _check_host(host: str, own: str, origins: Collection[str]) -> None:
    """Nothing where the request was sent to this machine by name or address.

    Raises: ApiError 403: a page whose name was made to mean this machine (DNS rebinding) passes
    for the server's own, but its browser says the name it asked.
    """
    name = _place(host, "http")[0]
    named = {_place(origin.partition("://")[2], "http")[0] for origin in origins}
    if _is_loopback(name) or name in named:
        return
    raise ApiError(
        403,
        f"{shown(host)} was asked for, this server listens on {own} for this machine alone; ask"
        f" localhost, or name the origin of a proxy's pages in {_SETTING}",
        code="foreign_host",
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _place(host: str, scheme: str) -> tuple[str, int | None]:
    """Name and port of a Host header; ("", None) for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(scheme)
    except ValueError:
        return "", None
