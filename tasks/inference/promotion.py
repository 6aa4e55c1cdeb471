"""A retuned adapter in the place of the one that serves, asked of the server that serves.

No pod starts or ends for it, and no request fails. Each call ensures: what is loaded, or answers
already, is left as it is, so that a run that was killed may ask again.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from tasks.contract.errors import ServerNotReady, error_from_reason

Verdict = Literal["running", "passed", "too_few", "tripped", "stopped"]

_CONNECT_S = 10.0
_LOAD_S = 900.0  # an image of gigabytes from a slow registry
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class LiveServer:
    """A server that answers, and the key that opens its admin endpoints."""

    url: str
    admin_key: str


@dataclass(frozen=True, kw_only=True)
class Canary:
    """How a candidate is tried out before it answers to all.

    share: of the requests, 0 to 1. for_s: how long. most_error_rate: above that of what serves.
    most_slowdown: its seconds a token as a multiple. least_requests: that say something.
    """

    share: float
    for_s: float
    most_error_rate: float = 0.02
    most_slowdown: float = 2.0
    least_requests: int = 20


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a canary; reason: in words, as the server says it."""

    verdict: Verdict
    reason: str
    requests: int


async def promote(
    server: LiveServer,
    *,
    name: str,
    version: str,
    adapter: str,
    canary: Canary | None = None,
    unload_former: bool = False,
) -> Tried | None:
    """Have an adapter answer to a name; what its canary came to, None where there was none.

    Only after a canary that passed is the name moved; else the candidate goes again.

    Args:
        name: that requests say.
        version: the adapter's own, as `quickstart@4`; never given to other weights.
        adapter: an image's reference with its registry, or a folder below the server's own.
        unload_former: free what answered until now, once its last request has ended; else it stays
            for `roll_back`.
    Raises: AdapterMismatch, RegistryUnavailable, ...: as the server says. ServerNotReady.
    """
    async with _admin(server) as ask:
        state = await ask("GET", "/admin/adapters")
        if version not in {each["version"] for each in state["versions"]}:
            await ask("POST", "/v1/load_lora_adapter", {"lora_name": version, "lora_path": adapter})
        tried = None
        if canary and _named(state, name).get("version") != version:
            tried = await _try_out(ask, name, version, canary)
            if tried.verdict != "passed":
                await ask("POST", "/v1/unload_lora_adapter", {"lora_name": version})
                return tried
        moved = {"name": name, "version": version, "unload_former": unload_former}
        await ask("POST", "/admin/promote", moved)
    return tried


async def roll_back(server: LiveServer, *, name: str) -> str:
    """The version that answers to the name again, as before the last promotion.

    Raises: ServerNotReady: it is loaded no more, or the server does not answer.
    """
    async with _admin(server) as ask:
        return str(_named(await ask("POST", "/admin/rollback", {"name": name}), name)["version"])


async def serving_version(server: LiveServer, *, name: str) -> str | None:
    """The version that answers to a name now; None = nothing does. Raises: ServerNotReady."""
    async with _admin(server) as ask:
        return _named(await ask("GET", "/admin/adapters"), name).get("version")


async def _try_out(ask: "_Ask", name: str, version: str, canary: Canary) -> Tried:
    await ask(
        "POST",
        "/admin/canary",
        {
            "name": name,
            "version": version,
            "share": canary.share,
            "for_s": canary.for_s,
            "most_error_rate": canary.most_error_rate,
            "most_slowdown": canary.most_slowdown,
            "least_requests": canary.least_requests,
        },
    )
    try:
        while True:
            told = _named(await ask("GET", "/admin/adapters"), name).get("canary")
            if told is None or told["version"] != version:
                return Tried(verdict="stopped", reason="somebody else moved the name", requests=0)
            if told["verdict"] != "running":
                return Tried(
                    verdict=told["verdict"], reason=told["reason"], requests=told["requests"]
                )
            await asyncio.sleep(min(_LOOK_EVERY_S, canary.for_s))
    except asyncio.CancelledError:
        await asyncio.shield(ask("POST", "/admin/canary/stop", {"name": name}))
        raise


def _named(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the server says of a name; {} where it has none of it."""
    return next((each for each in state["names"] if each["name"] == name), {})


class _Ask:
    """Requests to one server's admin endpoints."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url

    async def __call__(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """The answer, {} for plain text. Raises: what the server's refusal names."""
        asked = f"{self._url} was asked for {path}"
        try:
            response = await self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            found = str(error) or type(error).__name__
            raise ServerNotReady(
                asked, f"it does not answer ({found})", "see `kaitoflow logs`"
            ) from error
        if response.is_success:
            is_json = response.headers.get("content-type", "").startswith("application/json")
            return dict(response.json()) if is_json else {}
        try:
            told = response.json()["error"]
            code, said = str(told["code"]), str(told["message"])
        except (ValueError, KeyError, TypeError):
            code, said = "", f"status {response.status_code}"
        fix = "look at what serves (GET /admin/adapters)"
        if code[:1].isupper():
            raise error_from_reason(code, asked=asked, found=said, fix=fix)
        raise ServerNotReady(asked, f"it said: {said}", fix)


@asynccontextmanager
async def _admin(server: LiveServer) -> AsyncIterator[_Ask]:
    timeout = httpx2.Timeout(_LOAD_S, connect=_CONNECT_S)
    headers = {"Authorization": f"Bearer {server.admin_key}"}
    async with httpx2.AsyncClient(
        base_url=server.url, headers=headers, timeout=timeout, trust_env=False
    ) as client:
        yield _Ask(client, server.url)
