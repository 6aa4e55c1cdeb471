"""A program that runs beside the tests and ends with them, however they end."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_LOG_TAIL_LINES = 30


class Program:
    """One server: started, watched until it is ready, stopped, and started again if need be."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start it; its output is appended to `log`."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_dying_with_parent(), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which stop it in order
            )

    def stop(self, *, limit_s: float = 20.0) -> None:
        """Ask it to end, after the limit make it; nothing to do when it does not run."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # one that is paused hears nothing else
        deadline_s = time.monotonic() + limit_s
        while self._signal(0) and time.monotonic() < deadline_s:
            self._process.poll()
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def pause(self) -> None:
        """Have it and its children stand still until `resume`; nothing when it does not run."""
        if self._process is not None:
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on where it stood."""
        if self._process is not None:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> bool:
        """Whether there was one to hear it: it leads a group, in which nsenter's child is too."""
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait_until(self, ready: Callable[[], bool], *, limit_s: float) -> None:
        """Return when `ready` says so.

        Raises: RuntimeError: it ended before, or took longer than the limit; shows the log's end.
        """
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s and self.pid is not None:
            if ready():
                return
            time.sleep(0.1)
        found = "it does not answer as it should" if self.pid else "it ended"
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        raise RuntimeError(
            f"{self.name} should be ready within {limit_s:.0f} s, but {found}; "
            f"see the end of {self.log}:\n" + "\n".join(lines)
        )


def _dying_with_parent() -> list[str]:
    """On Linux the kernel ends it when the tests are killed and can stop nothing any more."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
