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
_READY_WITHIN_S = 600.0
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
    """A server's process, and what it has used as far as was looked.

    ready_s: from its start to the first word of a first answer. cpu_s: with its children.
    peak_rss_mb: the most that each of its processes had, together: what they share counts in each.
    rss_shared_once_mb: the most that was seen after a case, files that they share counted once.
    """

    def __init__(
        self, server: Server, *, logs: Path, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Args: environment: what all servers are told besides."""
        self.server = server
        told = {**_ON_CPU, **environment, **server.environment}
        pairs = [f"{name}={value}" for name, value in told.items()]
        command = ["env", "-C", ROOT, *pairs, *server.command]
        self._program = Program(server.name, command, logs / f"{server.name}.log")
        self.ready_s = self.cpu_s = self.peak_rss_mb = self.rss_shared_once_mb = 0.0

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
            memory = [_memory_mb(each.pid) for each in tree]
        except (psutil.NoSuchProcess, OSError, KeyError):
            return
        if used:
            self.cpu_s = sum(each.user + each.system for each in used)
            self.cpu_s += used[0].children_user + used[0].children_system
            peak_mb = sum(each["VmHWM"] for each in memory)
            own_mb = sum(each["RssAnon"] for each in memory)
            shared_mb = max(each["RssFile"] + each["RssShmem"] for each in memory)
            self.peak_rss_mb = max(self.peak_rss_mb, peak_mb)
            self.rss_shared_once_mb = max(self.rss_shared_once_mb, own_mb + shared_mb)

    def stop(self) -> None:
        """End it, paused or not."""
        self._program.stop()


def _memory_mb(pid: int) -> dict[str, float]:
    """What the kernel tells of a process's memory, by its own names."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(kib) * 1024 / 1e6 for name, kib, _ in words}


def cores() -> list[int]:
    """The processors that this process may use."""
    return sorted(os.sched_getaffinity(0))
