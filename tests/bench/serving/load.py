"""Clients that ask a server for streams, and what counts as an answer."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.bench.serving.measures import Answer

_CHAT = "/v1/chat/completions"


@dataclass
class Reading:
    """What a stream has brought so far.

    says_tokens: the server's own count; without one each text counts as a token.
    """

    text_s: list[float] = field(default_factory=list)
    says_tokens: int | None = None
    error: str = ""

    def take(self, line: str, *, at_s: float) -> None:
        """Take in one line of server-sent events."""
        if not line.startswith("data: {"):
            return
        event: Mapping[str, Any] = json.loads(line.removeprefix("data: "))
        if "error" in event:
            self.error = f"the stream told an error: {_short(event['error'])}"
        if any(_text(choice) for choice in event.get("choices", ())):
            self.text_s.append(at_s)
        if usage := event.get("usage"):
            self.says_tokens = int(usage["completion_tokens"])

    @property
    def tokens(self) -> int:
        return len(self.text_s) if self.says_tokens is None else self.says_tokens

    def failure(self, *, wanted: int) -> str:
        """Why this is not the answer that was asked for; empty when it is."""
        if self.error:
            return self.error
        if not self.text_s:
            return "200, and no text"
        return f"{self.tokens} of {wanted} tokens" if self.tokens < wanted else ""


def _text(choice: Mapping[str, Any]) -> str:
    return str((choice.get("delta") or {}).get("content") or "")


def _short(said: object) -> str:
    told = said.get("message", said) if isinstance(said, Mapping) else said
    return " ".join(str(told).split())[:120]


@asynccontextmanager
async def connected(url: str, *, within_s: float) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for as many streams as one likes; an answer that takes longer has failed."""
    limits = httpx2.Limits(max_connections=None)
    timeout = httpx2.Timeout(within_s)
    async with httpx2.AsyncClient(
        base_url=url, timeout=timeout, limits=limits, trust_env=False
    ) as client:
        yield client


async def ask(
    client: httpx2.AsyncClient,
    body: Mapping[str, Any],
    *,
    within_s: float,
    reading: Reading | None = None,
) -> Answer:
    """Stream one answer of `max_tokens` tokens; whatever goes wrong is told in it.

    Args: reading: to be looked at meanwhile.
    """
    reading = reading or Reading()
    asked_s = time.monotonic()
    try:
        async with asyncio.timeout(within_s), client.stream("POST", _CHAT, json=body) as response:
            if response.status_code == 200:
                async for line in response.aiter_lines():
                    reading.take(line, at_s=time.monotonic())
                failure = reading.failure(wanted=body["max_tokens"])
            else:
                failure = f"HTTP {response.status_code}"
    except TimeoutError:
        failure = f"no answer within {within_s:.0f} s"
    except (httpx2.HTTPError, ValueError) as error:
        failure = f"the connection broke: {type(error).__name__}"
    ended_s = time.monotonic()
    return Answer(asked_s, tuple(reading.text_s), ended_s, reading.tokens, failure)


async def ask_all(
    url: str, bodies: Sequence[Mapping[str, Any]], *, clients: int, within_s: float
) -> list[Answer]:
    """So many clients at once, each asking its share one after the other."""

    async def go_on(client: httpx2.AsyncClient, own: Sequence[Mapping[str, Any]]) -> list[Answer]:
        return [await ask(client, body, within_s=within_s) for body in own]

    async with connected(url, within_s=within_s) as client:
        shares = [bodies[number::clients] for number in range(clients)]
        answered = await asyncio.gather(*(go_on(client, share) for share in shares))
    return [answer for share in answered for answer in share]
