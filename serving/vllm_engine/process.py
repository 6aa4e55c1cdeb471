"""The process of one `vllm serve`: started, listened to, ended. Belongs to one event loop."""

import asyncio
import contextlib
import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
from collections import deque
from typing import Self

from serving.vllm_engine.flags import HOST, command, environment
from tasks.contract.errors import ContainerStartError
from tasks.contract.programs.serving import ServerConfig

log = logging.getLogger("vllm")

_LAST_LINES = 200
_LINE_BYTES = 2**20
_END_S = 15.0  # vLLM ends its own processes meanwhile
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl


class VllmProcess:
    """One run of `vllm serve`.

    url: where it answers, on loopback. key: that it asks for. said: its last lines.
    """

    def __init__(self, child: asyncio.subprocess.Process, *, port: int, key: str) -> None:
        """Listen to a process that has just been started."""
        self.url = f"http://{HOST}:{port}"
        self.key = key
        self.said: deque[str] = deque(maxlen=_LAST_LINES)
        self._child = child
        self._listening = asyncio.create_task(self._listen())
        self._ended = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, config: ServerConfig, *, max_lora_rank: int) -> Self:
        """Start it. Raises: ContainerStartError: there is no such program."""
        port, key = _free_port(), secrets.token_urlsafe(32)
        arguments = command(config, port=port, max_lora_rank=max_lora_rank)
        try:
            child = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment(os.environ, key=key),
                limit=_LINE_BYTES,
                # Of its own: Ctrl-C in a terminal is the server's, which ends vLLM in its order.
                start_new_session=True,
                preexec_fn=_end_with_its_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise ContainerStartError(
                f"{arguments[0]} was to be started",
                f"{error.strerror or error}",
                "serve with an image that has vLLM, or name the program in KAITOFLOW_VLLM_PROGRAM",
            ) from error
        log.info("started pid=%d port=%d flags=%s", child.pid, port, " ".join(arguments[1:]))
        return cls(child, port=port, key=key)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._child.returncode is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, as `subprocess` has it; None while it has not."""
        return self._child.returncode

    async def ended(self) -> None:
        """Return when it has ended, and all that it said was read."""
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """End it, and what it started: in order, and after a while at once."""
        if self.is_alive:
            self._send(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._ended), _END_S)
        self.kill()
        await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End it, and what it started, at once; those may outlive it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(number)

    async def _wait(self) -> None:
        await self._child.wait()
        # What it started holds the other end of its output, and may live on for a moment.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listening), 2)
        self._listening.cancel()

    async def _listen(self) -> None:
        """Have its lines in our log, and the last of them at hand."""
        assert self._child.stdout
        while True:
            try:
                line = await self._child.stdout.readline()
            except ValueError:  # longer than any line of sense; the rest follows
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text:
                self.said.append(text)
                log.info("%s", text)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


# Loaded here, since between fork and exec nothing may be.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_its_parent() -> None:
    """Have the kernel end it when the thread that started it is gone, by kill -9 too."""
    assert _LIBC
    _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)
