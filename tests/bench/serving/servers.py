"""Servers as processes of their own: started, asked until they answer, paused while others are."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import psutil

from tests.bench.serving.load import ask_all
from tests.bench.serving.measures import Answer
from tests.cluster.program import Program

Length = Callable[[int], Mapping[str, Any]]
"""The fields of a request whose answer has exactly so many tokens."""

ROOT = Path(__file__).resolve().parents[3]
_READY_WITHIN_S = 300.0
ANSWERED_WITHIN_S = 300.0
_WARM_UP_CLIENTS, _WARM_UP_TOKENS = 4, 8
# One machine, one kind of processor: nobody takes a GPU that may be there.
_ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "KAITOFLOW_DEVICE": "cpu"}


class NotStarted(Exception):
    """A server does not answer; says what it did instead."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server that takes part.

    models: that its requests name, in turn. version: of what answers. settings: how it is set up
    and why, as the report tells it.
    """

    name: str
    command: Sequence[str | Path]
    port: int
    models: Sequence[str]
    length: Length
    version: str
    settings: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def body(
        self, number: int, messages: Sequence[Mapping[str, str]], tokens: int
    ) -> dict[str, Any]:
        """The request with a number, greedy, for a stream of so many tokens."""
        return {
            "model": self.models[number % len(self.models)],
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": tokens,
            "stream": True,
            **self.length(tokens),
        }


def at_least(tokens: int) -> Mapping[str, Any]:
    """vLLM's words, and ours: the end is not drawn before."""
    return {"min_tokens": tokens, "stream_options": {"include_usage": True}}


class Running:
    """A server's process. ready_s: from its start to the first word of a first answer."""

    def __init__(
        self, server: Server, *, logs: Path, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Args: environment: what all servers are told besides."""
        self.server = server
        told = {**_ON_CPU, **environment, **server.environment}
        pairs = [f"{name}={value}" for name, value in told.items()]
        command = ["env", "-C", ROOT, *pairs, *server.command]
        self._program = Program(server.name, command, logs / f"{server.name}.log")
        self.ready_s = 0.0
        self._cpu_s = self._peak_rss_mb = 0.0

    def start(self) -> None:
        """Start it, wait for a first answer, and warm it up. Raises: NotStarted."""
        began_s = time.monotonic()
        self._program.start()
        try:
            self._program.wait_until(self._is_healthy, limit_s=_READY_WITHIN_S)
        except RuntimeError as error:
            raise NotStarted(self._last_words()) from error
        [first] = self._ask("first", requests=1)
        if first.failure:
            raise NotStarted(f"its first answer: {first.failure}; {self._last_words()}")
        self.ready_s = first.text_s[0] - began_s
        self._ask("warm-up", requests=_WARM_UP_CLIENTS)

    def _ask(self, number: str, *, requests: int) -> list[Answer]:
        messages = [{"role": "user", "content": f"{number}: count to twenty."}]
        bodies = [self.server.body(each, messages, _WARM_UP_TOKENS) for each in range(requests)]
        asked = ask_all(self.server.url, bodies, clients=requests, within_s=ANSWERED_WITHIN_S)
        return asyncio.run(asked)

    def _is_healthy(self) -> bool:
        try:
            return httpx2.get(f"{self.server.url}/health", trust_env=False, timeout=5).is_success
        except httpx2.HTTPError:
            return False

    def _last_words(self) -> str:
        lines = self._program.log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{last[:200]} ({self._program.log})"

    @contextmanager
    def turn(self) -> Iterator[None]:
        """It runs within, and stands still after: an idle server may well use a core."""
        self._program.resume()
        try:
            yield
        finally:
            self.look()
            self._program.pause()

    def look(self) -> None:
        """Read what it has used; what was read last stays when it is gone."""
        try:
            process = psutil.Process(self._program.pid) if self._program.pid else None
            tree = [process, *process.children(recursive=True)] if process else []
            used = [each.cpu_times() for each in tree]
            peak_mb = sum(_peak_rss_mb(each.pid) for each in tree)
        except (psutil.NoSuchProcess, OSError, StopIteration):
            return
        if used:
            self._cpu_s = sum(each.user + each.system for each in used)
            self._cpu_s += used[0].children_user + used[0].children_system
            self._peak_rss_mb = max(self._peak_rss_mb, peak_mb)

    @property
    def cpu_s(self) -> float:
        """That it has used since its start, with its children, as far as was looked."""
        return self._cpu_s

    @property
    def peak_rss_mb(self) -> float:
        """The most that its processes had in memory; what they share counts in each."""
        return self._peak_rss_mb

    def stop(self) -> None:
        """End it, paused or not."""
        self._program.stop()


def _peak_rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def cores() -> list[int]:
    """The processors that this process may use."""
    return sorted(os.sched_getaffinity(0))
