"""Containers of the local platform: pod programs as processes that outlive whoever started them.

A container has a log file and a record (pid, start time, digest of its config). So a run that
starts after a crash finds the process still working and follows it instead of starting a second.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import TypeAdapter

from tasks.contract.errors import ContainerKilled
from tasks.contract.podlog import EVENT_NONCE, Event, parse_event, verdict_error
from tasks.platform.base import Container
from tasks.platform.store import write_atomically

_POLL_S = 0.1
_KILL_WAIT_S = 5.0


@dataclass(frozen=True)
class ProcessRecord:
    """What is known of a container's process; enough to tell it from another with the same pid."""

    pid: int
    started: float
    config_digest: str
    nonce: str = ""

    def process(self) -> psutil.Process | None:
        """The process, if it is still this one and no zombie."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
        except psutil.NoSuchProcess:
            return None
        return process if same and _is_alive(process) else None


@contextlib.contextmanager
def ended_unless_recorded(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Leave no process that nobody knows of, when its record cannot be written."""
    try:
        yield
    except BaseException:
        child.kill()
        child.wait()
        raise


class ContainerProcess:
    """One container: where its files are, and the process behind it."""

    def __init__(self, folder: Path, name: str) -> None:
        """Work in `folder`, of the Workspace's generation: `logs/` and `config/` lie in it."""
        self.name = name
        self.log = folder / "logs" / f"{name}.log"
        self._config = folder / "config" / f"{name}.json"
        self._record = folder / "logs" / f"{name}.process.json"
        self._child: subprocess.Popen[bytes] | None = None

    def record(self) -> ProcessRecord | None:
        """The record of the last start; None when it never started, or nobody can read it."""
        try:
            return ProcessRecord(**json.loads(self._record.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def running(self) -> psutil.Process | None:
        """The process, while it lives."""
        if self._child is not None:
            self._child.poll()  # a child of ours that has ended is a zombie until it is asked
        record = self.record()
        return record.process() if record else None

    def _unrecorded(self) -> psutil.Process | None:
        """The process where no record tells of it: whoever started it was killed before, or since.

        No other process has been told to read its config.
        """
        if self.record():
            return None
        config = str(self._config)
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[-1] == config and _is_alive(process):
                return process
        return None

    def exit_code(self) -> int | None:
        """How the process ended; None while it lives, and when it was another's child."""
        return self._child.poll() if self._child is not None else None

    async def ensure_started(self, container: Container, *, grace_s: float) -> None:
        """Have the container's process running with this config; one that runs is kept."""
        config = TypeAdapter(type(container.config)).dump_json(container.config, indent=1)
        digest = hashlib.sha256(container.program.encode() + config).hexdigest()
        record = self.record()
        if record and record.process() and record.config_digest == digest:
            return
        await self.stop(grace_s=grace_s)
        write_atomically(self._config, config)
        self._start(container.program, digest)

    def _start(self, program: str, digest: str) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".previous.log"))
        nonce = secrets.token_hex(16)
        with self.log.open("wb") as log:
            # Its own session: Ctrl-C in the terminal reaches the flow, which stops it in order.
            # -P and its own folder: a tasks.py where somebody works is not ours to run.
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", program, str(self._config)],
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_pod_environment() | {EVENT_NONCE: nonce},
            )
        with ended_unless_recorded(self._child):
            started = psutil.Process(self._child.pid).create_time()
            record = ProcessRecord(self._child.pid, started, digest, nonce)
            write_atomically(self._record, json.dumps(asdict(record)).encode())

    async def lines(self) -> AsyncGenerator[Event | str]:
        """What the process says, from its start, until it ends: events and log lines."""
        record = self.record()
        nonce = record.nonce if record else ""
        with self.log.open("r", encoding="utf-8", errors="replace") as log:
            pending = ""
            while True:
                alive = self.running() is not None
                while chunk := log.readline():
                    pending += chunk
                    if pending.endswith("\n"):
                        line, pending = pending.rstrip("\n"), ""
                        yield parse_event(line, nonce=nonce) or line
                if not alive:
                    return
                await asyncio.sleep(_POLL_S)

    async def stop(self, *, grace_s: float) -> bool:
        """Ask the process and its children to end, then make them; whether there was one."""
        process = self.running() or self._unrecorded()
        if not process:
            return False
        family = _family(process)
        _signal(family, signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + grace_s
        while _is_alive(process) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_S)
            self.exit_code()  # which buries a child of ours
        _signal(family, signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, family, timeout=_KILL_WAIT_S)
        self.running()
        return True


async def follow_to_result(
    process: ContainerProcess, container: Container, *, grace_s: float
) -> AsyncGenerator[Event | str]:
    """Yield a container's lines up to its result; stop it when the iteration is cancelled.

    Raises: the typed error of the verdict; ContainerKilled when the program ended without one.
    """
    await process.ensure_started(container, grace_s=grace_s)
    verdict: dict[str, Any] | None = None
    try:
        async for said in process.lines():
            yield said
            if isinstance(said, dict) and said["event"] in ("result", "verdict"):
                verdict = said
    except (asyncio.CancelledError, GeneratorExit):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(process.stop(grace_s=grace_s))
        raise
    raise_for_verdict(verdict, container.name, process.log)
    if process.exit_code():
        raise ContainerKilled(
            f"{container.name} was asked to finish",
            f"after its result its process ended with exit code {process.exit_code()}",
            f"run again to resume (log: {process.log})",
        )


def raise_for_verdict(verdict: dict[str, Any] | None, name: str, log: Path) -> None:
    """Raise what a container's last event says; nothing when it is a result."""
    if verdict is None:
        raise ContainerKilled(
            f"{name} was asked to finish",
            "its process ended without a word, as after kill -9 or when memory ran out",
            f"run again to resume (log: {log})",
        )
    if verdict["event"] == "verdict":
        raise verdict_error(verdict)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [process]


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _pod_environment() -> dict[str, str]:
    """The environment of a pod program: ours, without what belongs to Prefect."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return kept | {
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
