"""A retuned adapter in the place of the one that serves, asked of the server that serves.

No pod starts or ends for it, and no request fails. Each call ensures: what is loaded, or answers
already, is left as it is, so that a run that was killed may ask again.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import httpx2

from tasks.contract.canary import Canary
from tasks.contract.errors import ServerNotReady, error_from_reason

Verdict = Literal["running", "passed", "too_few", "tripped", "stopped"]

_CONNECT_S = 10.0
_LOAD_S = 900.0  # an image of gigabytes from a slow registry
_LOOK_EVERY_S = 1.0
_STATE = "/admin/adapters"


@dataclass(frozen=True)
class LiveServer:
    """A server that answers, and the key that opens its admin endpoints."""

    url: str
    admin_key: str


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a canary; reason: in words, as the server says it."""

    verdict: Verdict
    reason: str
    requests: int


async def try_out(
    server: LiveServer, *, name: str, version: str, adapter: str, canary: Canary
) -> Tried:
    """What a canary of an adapter came to; one that has begun, or has passed, is gone on with.

    The adapter stays loaded where it passed, to be promoted; else it goes again. Who stops waiting
    stops the canary.

    Args: as of `promote`.
    Raises: as `promote`.
    """
    async with _admin(server) as ask:
        known = _named(await _with_loaded(ask, version, adapter), name)
        told = known.get("canary") or {}
        goes_on = told.get("version") == version and told["verdict"] in ("running", "passed")
        try:
            if not goes_on and known.get("version") != version:
                begun = {"name": name, "version": version, **asdict(canary)}
                await ask("POST", "/admin/canary", begun)
            look_every_s = min(_LOOK_EVERY_S, canary.for_s)
            tried = await _verdict(ask, name, version, look_every_s=look_every_s)
        except asyncio.CancelledError:
            # From the first word on: the server may have begun before its answer was heard.
            await asyncio.shield(ask("POST", "/admin/canary/stop", {"name": name}))
            raise
        if tried.verdict != "passed" and version in _versions(await ask("GET", _STATE)):
            await ask("POST", "/v1/unload_lora_adapter", {"lora_name": version})
        return tried


async def promote(
    server: LiveServer,
    *,
    name: str,
    version: str,
    adapter: str,
    unload_former: bool = False,
) -> None:
    """Have an adapter answer to a name.

    Args:
        name: that requests say.
        version: the adapter's own, as `quickstart@4`; never given to other weights.
        adapter: an image's reference with its registry, or a folder below the server's own.
        unload_former: free what answered until now, once its last request has ended; else it stays
            for `roll_back`.
    Raises: AdapterMismatch, RegistryUnavailable, ...: as the server says. ServerNotReady.
    """
    async with _admin(server) as ask:
        await _with_loaded(ask, version, adapter)
        moved = {"name": name, "version": version, "unload_former": unload_former}
        await ask("POST", "/admin/promote", moved)


async def roll_back(server: LiveServer, *, name: str) -> str:
    """The version that answers to the name again, as before the last promotion.

    Raises: ServerNotReady: it is loaded no more, or the server does not answer.
    """
    async with _admin(server) as ask:
        return str(_named(await ask("POST", "/admin/rollback", {"name": name}), name)["version"])


async def serving_version(server: LiveServer, *, name: str) -> str | None:
    """The version that answers to a name now; None = nothing does. Raises: ServerNotReady."""
    async with _admin(server) as ask:
        return _named(await ask("GET", _STATE), name).get("version")


async def exchange(server: LiveServer, *, load: Mapping[str, str], unload: Collection[str]) -> None:
    """Have adapters answer to their own names, and others to none.

    Args:
        load: names to what they are to be, as `promote` has it; requests on what answers to such a
            name already end on that.
        unload: names whose last requests are waited for.
    Raises: as `promote`.
    """
    async with _admin(server) as ask:
        for name, adapter in load.items():
            asked = {"lora_name": name, "lora_path": adapter, "load_inplace": True}
            await ask("POST", "/v1/load_lora_adapter", asked)
        there = {each["name"] for each in (await ask("GET", _STATE))["names"]}
        for name in there.intersection(unload):
            await ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})


async def administer(
    server: LiveServer, path: str, body: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """The answer of one admin endpoint, {} for plain text: to a POST of the body, or to a GET.

    Raises: as `promote`.
    """
    async with _admin(server) as ask:
        return await ask("GET" if body is None else "POST", path, body)


async def _with_loaded(ask: "_Ask", version: str, adapter: str) -> Mapping[str, Any]:
    """What the server says of itself, once it has the adapter loaded."""
    state: Mapping[str, Any] = await ask("GET", _STATE)
    if version not in _versions(state):
        await ask("POST", "/v1/load_lora_adapter", {"lora_name": version, "lora_path": adapter})
        state = await ask("GET", _STATE)
    return state


async def _verdict(ask: "_Ask", name: str, version: str, *, look_every_s: float) -> Tried:
    """What a canary that runs comes to."""
    while True:
        known = _named(await ask("GET", _STATE), name)
        if known.get("version") == version:
            return Tried(verdict="passed", reason="it answers to the name already", requests=0)
        told = known.get("canary")
        if told is None or told["version"] != version:
            gone = "the server began anew, or somebody moved the name"
            return Tried(verdict="stopped", reason=gone, requests=0)
        if told["verdict"] != "running":
            return Tried(
                verdict=told["verdict"],
                reason=told["reason"] or f"the canary was {told['verdict']}",
                requests=told["requests"],
            )
        await asyncio.sleep(look_every_s)


def _versions(state: Mapping[str, Any]) -> set[str]:
    """What the server has loaded."""
    return {each["version"] for each in state["versions"]}


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
