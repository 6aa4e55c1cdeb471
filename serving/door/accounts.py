"""Who may ask for answers, and how much: keys of users, each with its own rate and budget.

A line a key: `NAME KEY`, the key as it is or as `sha256:` and its digest in hex, and behind it, if
wanted, `requests_per_minute=60` and `tokens_per_minute=20000`. Lines that begin with # say nothing.
The file is read again when it has changed. A budget is one server's: replicas do not share it.
"""

import hmac
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.door.keys import digest_of, given_digest
from serving.errors import ApiError
from serving.metrics import Metrics
from tasks.contract.programs.serving import ServerConfig

log = logging.getLogger(__name__)

Clock = Callable[[], float]

# What probes, Prometheus and a browser ask without a key, and what asks for the admin's instead.
_OPEN = {"/", "/health", "/live", "/metrics", "/favicon.ico", "/openapi.json"}
_ADMINS = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
_LIMITS = ("requests_per_minute", "tokens_per_minute")


@dataclass
class Allowance:
    """So much a minute, and as much at once; what is taken may exceed it, and is made good."""

    per_minute: int
    clock: Clock
    left: float = field(init=False)
    _seen_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.left, self._seen_s = self.per_minute, self.clock()

    def wait_s(self) -> float:
        """How long until there is something left; 0 = there is."""
        now_s = self.clock()
        grown = (now_s - self._seen_s) * self.per_minute / 60
        self.left, self._seen_s = min(self.per_minute, self.left + grown), now_s
        return max(0.0, (1 - self.left) * 60 / self.per_minute)

    def take(self, amount: int) -> None:
        """Count what was used."""
        self.left -= amount


@dataclass(frozen=True)
class Account:
    """One key with what it may use; None = without a limit."""

    name: str
    digest: bytes
    requests: Allowance | None = None
    tokens: Allowance | None = None

    def admit(self) -> None:
        """Count a request. Raises: ApiError 429 with the time after which to come again."""
        for what, allowance in (("requests", self.requests), ("tokens", self.tokens)):
            if allowance and (wait_s := allowance.wait_s()):
                raise ApiError(
                    429,
                    f"the key {self.name} has {allowance.per_minute} {what} a minute, and they are"
                    f" used; come again in {math.ceil(wait_s)} s",
                    code="rate_limit_exceeded",
                    headers={"Retry-After": str(math.ceil(wait_s))},
                )
        if self.requests:
            self.requests.take(1)

    def spend(self, tokens: int) -> None:
        """Count tokens of prompts and answers."""
        if self.tokens:
            self.tokens.take(tokens)


class Accounts:
    """The accounts of a file; a file that is missing or empty admits nobody."""

    def __init__(self, file: Path, *, clock: Clock = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._mark: tuple[int, ...] = ()
        self._accounts: Mapping[str, Account] = {}

    def of(self, headers: Headers) -> Account:
        """Whose key a request bears. Raises: ApiError 401."""
        given, found = given_digest(headers), None
        for account in self._current().values():
            if hmac.compare_digest(given, account.digest):
                found = account
        if found is None:
            raise ApiError(
                401,
                "this server answers to keys, and none that it knows came with the request; send"
                " one as Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found

    def _current(self) -> Mapping[str, Account]:
        try:
            stat = self._file.stat()
            mark = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if mark != self._mark:
                self._accounts = self._read(self._file.read_text())
                self._mark = mark
        except (OSError, UnicodeDecodeError):
            self._accounts, self._mark = {}, ()
        return self._accounts

    def _read(self, text: str) -> Mapping[str, Account]:
        """The accounts of the lines; one that stays as it was keeps what it has used."""
        accounts: dict[str, Account] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                account = _account(line, self._clock)
            except ValueError as error:
                log.warning("a key is not taken line=%d reason=%s", number, error)
                continue
            if account.name in accounts:
                log.warning("a key is not taken line=%d reason=its name is taken", number)
                continue
            former = self._accounts.get(account.name)
            accounts[account.name] = former if former and _same(former, account) else account
        return accounts


def _account(line: str, clock: Clock) -> Account:
    name, *rest = line.split()
    if not rest:
        raise ValueError("there is no key behind the name")
    key, *limits = rest
    allowances = {}
    for limit in limits:
        word, _, value = limit.partition("=")
        if word not in _LIMITS or not value.isdecimal() or not int(value):
            raise ValueError(f"{limit[:40]} is none of {', '.join(_LIMITS)} with a number")
        allowances[word] = Allowance(int(value), clock)
    requests, tokens = (allowances.get(word) for word in _LIMITS)
    return Account(name, digest_of(key), requests, tokens)


def _same(former: Account, account: Account) -> bool:
    def told(each: Account) -> tuple[object, ...]:
        limits = [one.per_minute if one else None for one in (each.requests, each.tokens)]
        return (each.digest, *limits)

    return told(former) == told(account)


def install(app: FastAPI, config: ServerConfig, metrics: Metrics) -> None:
    """Have requests bear a user's key, where the server was told of keys."""
    if config.user_keys_file is not None:
        app.add_middleware(_Door, accounts=Accounts(config.user_keys_file), metrics=metrics)


def spend(request: Request, tokens: int) -> None:
    """Count tokens for the request's line in the log, and for whoever asks, if by a key."""
    request.state.tokens = getattr(request.state, "tokens", 0) + tokens
    account: Account | None = getattr(request.state, "account", None)
    if account:
        account.spend(tokens)


class _Door:
    """Refuses before a route or a body is looked at."""

    def __init__(self, app: ASGIApp, *, accounts: Accounts, metrics: Metrics) -> None:
        self._app = app
        self._accounts = accounts
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path = scope.get("path", "")
            if scope["type"] == "http" and not (is_open(path) or is_administrators(path)):
                account = self._accounts.of(Headers(scope=scope))
                if scope["method"] == "POST":
                    account.admit()
                scope.setdefault("state", {})["account"] = account
        except ApiError as error:
            self._metrics.refused.labels(str(error.status)).inc()
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def is_open(path: str) -> bool:
    """Whether anybody may ask it."""
    return path in _OPEN


def is_administrators(path: str) -> bool:
    """Whether it asks for the administrator's key by itself."""
    return path in _ADMINS or path.startswith("/admin/")
