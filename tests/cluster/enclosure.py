"""A part of this machine with a network, mounts and process ids of its own, as root.

Nothing in it is seen outside, and the kernel removes all of it when its first process ends, which
happens with the tests at the latest: interfaces, mounts and every process, containers included.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.cluster.program import Program

_START_LIMIT_S = 20.0


class Enclosure:
    """Namespaces held by one process; `pid` is that process as the machine sees it."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid

    def command(self, *command: str | Path) -> list[str | Path]:
        """The command that runs `command` inside."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", *command]

    def on_network(self, *command: str | Path) -> list[str | Path]:
        """The command that runs `command` on the network inside, but else outside."""
        return ["nsenter", f"--target={self.pid}", "--net", *command]

    def run(self, *command: str | Path) -> str:
        """What `command`, run inside, prints.

        Raises: RuntimeError: it exits with an error; says what it said.
        """
        return self._said(self.command(*command))

    def ip(self, *arguments: str | int) -> str:
        """What `ip` prints of the network inside; it speaks of processes by their pids outside."""
        return self._said(self.on_network("ip", *map(str, arguments)))

    def _said(self, command: list[str | Path]) -> str:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            words = " ".join(map(str, command))
            raise RuntimeError(f"in {self.name}, {words} should succeed, but said: {answer.stderr}")
        return answer.stdout


@dataclass(frozen=True)
class Site:
    """Where a server listens: an address on this machine, or one in an enclosure."""

    address: str = "127.0.0.1"
    enclosure: Enclosure | None = None

    def command(self, *command: str | Path) -> list[str | Path]:
        """The command that runs `command` there."""
        return self.enclosure.on_network(*command) if self.enclosure else list(command)


LOOPBACK = Site()


@contextmanager
def running_enclosure(name: str, folder: Path) -> Iterator[Enclosure]:
    """An enclosure with nothing but a loopback interface."""
    holder = Program(
        name,
        [
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            # Its first process has to reap what others leave behind.
            *("sh", "-c", "sleep infinity & wait"),
        ],
        folder / f"{name}.log",
    )
    holder.start()
    try:
        enclosure = Enclosure(name, _first_process(holder))
        enclosure.ip("link", "set", "lo", "up")
        yield enclosure
    finally:
        holder.kill()


def _first_process(holder: Program) -> int:
    children: list[psutil.Process] = []

    def has_mounted_proc() -> bool:
        assert holder.pid is not None
        children[:] = psutil.Process(holder.pid).children()
        return bool(children) and children[0].name() == "sh"

    holder.wait_until(has_mounted_proc, limit_s=_START_LIMIT_S)
    return children[0].pid


@contextmanager
def forwarded(
    name: str, *, listen: tuple[int, str], connect: tuple[int, str], folder: Path
) -> Iterator[None]:
    """Carry connections from one network's HOST:PORT to another's; a pid names each network."""
    script = Path(__file__).with_name("forward.py")
    program = Program(
        name,
        [sys.executable, script, str(listen[0]), listen[1], str(connect[0]), connect[1]],
        # Each its own: what an earlier one of this address said is no word of this one.
        folder / f"{name}-{listen[1]}.log",
    )
    program.start()
    try:
        program.wait_until(lambda: "listening" in program.log.read_text(), limit_s=_START_LIMIT_S)
        yield
    finally:
        program.kill()
