"""Thousands of requests at once, some of them hostile: what the others are told must not change."""

import asyncio
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from serving.engine import Load
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tests.serving.running import Running, serve

REQUESTS = 2000
AT_ONCE = 16
ONE_HOSTILE_IN = 20
SETTLED_AFTER = 600  # requests, by when buffers and pools are as large as they get
MAX_GROWTH_BYTES = 16 * 2**20

TEXTS = ("the cat", "the dog ran in the fog", "Äpfel kosten 12 €", "a mat and a cat on a mat " * 6)
INNOCENT: list[dict[str, Any]] = [
    {"model": model, "prompt": text, "max_tokens": tokens, "temperature": 0}
    for model in ("toy", "first")
    for text in TEXTS
    for tokens in (1, 2, 4, 8)
]
FINE = INNOCENT[0]
HOSTILE: list[dict[str, Any]] = [
    FINE | {"prompt": [3, 999_999_999]},
    FINE | {"prompt": [-1]},
    FINE | {"stop_token_ids": [2**40]},
    FINE | {"prompt": "half \ud83d of a pair"},
    FINE | {"stop": ["\udc00"]},
    FINE | {"max_tokens": "many"},
    FINE | {"temperature": [0]},
    FINE | {"prompt": {"text": "a"}},
    FINE | {"n": 10**9},
    FINE | {"prompt": "a b " * 200_000},
    FINE | {"prompt": "a " * 1_000_000},
    FINE | {"model": "x" * 10_000},
    FINE | {"seed": 2**70},
]
HANG_UP = FINE | {"max_tokens": 3000, "min_tokens": 3000}


@pytest.fixture(scope="module")
def busy(toy_model: Path, toy_adapters: tuple[Path, Path]) -> Iterator[Running]:
    config = ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        adapters=(AdapterSource("first", toy_adapters[0]),),
    )
    with serve(config) as running:
        yield running


class Trial:
    """One pass over the requests, with what was seen."""

    def __init__(self, client: httpx2.AsyncClient, alone: list[str]) -> None:
        self.refused: Counter[int] = Counter()
        self.hung_up = 0
        self.wrong: list[str] = []
        self.rss_bytes: list[int] = []
        self._client = client
        self._alone = alone
        self._numbers = iter(range(REQUESTS))

    async def ask_on(self) -> None:
        """Ask one after the other, beside others that do the same."""
        for number in self._numbers:
            if number % 100 == 0:
                self.rss_bytes.append(psutil.Process(os.getpid()).memory_info().rss)
            if number % ONE_HOSTILE_IN:
                await self._ask(number % len(INNOCENT))
            else:
                await self._harm(number // ONE_HOSTILE_IN)

    async def _ask(self, which: int) -> None:
        answer = await self._client.post("/v1/completions", json=INNOCENT[which])
        said = answer.json()["choices"][0]["text"] if answer.is_success else answer.text
        if said != self._alone[which]:
            self.wrong.append(f"{INNOCENT[which]}: {said!r}, alone {self._alone[which]!r}")

    async def _harm(self, turn: int) -> None:
        which = turn % (len(HOSTILE) + 1)
        if which == len(HOSTILE):
            await asyncio.to_thread(hang_up, self._client.base_url.port or 0)
            self.hung_up += 1
            return
        answer = await self._client.post("/v1/completions", content=json.dumps(HOSTILE[which]))
        self.refused[answer.status_code] += 1


def hang_up(port: int) -> None:
    """Ask for a long answer and be gone."""
    body = json.dumps(HANG_UP).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)


@pytest.mark.slow
async def test_who_asks_beside_hostile_requests_is_told_what_it_is_told_alone(
    busy: Running, until: Callable[..., None]
) -> None:
    async with httpx2.AsyncClient(base_url=busy.url, timeout=120, trust_env=False) as client:
        alone = []
        for body in INNOCENT:
            answer = await client.post("/v1/completions", json=body)
            alone.append(str(answer.json()["choices"][0]["text"]))
        assert len(set(alone)) > len(INNOCENT) // 2
        trial = Trial(client, alone)
        await asyncio.gather(*(trial.ask_on() for _ in range(AT_ONCE)))
    assert not trial.wrong
    assert set(trial.refused) <= {400, 404, 413}, trial.refused
    assert trial.hung_up + trial.refused.total() == REQUESTS // ONE_HOSTILE_IN
    until(lambda: busy.engine.load() == Load(0, 0, 0))
    assert not busy.engine.is_broken
    grown = max(trial.rss_bytes) - trial.rss_bytes[SETTLED_AFTER // 100]
    assert grown < MAX_GROWTH_BYTES, trial.rss_bytes
