"""The program that runs a command of the user's own, on one machine; on a cluster it has an image.

Run as `python -m tasks.evaluation.pod.command CONFIG.json`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tasks.contract.gate_command import MOST_CHARS, Heard
from tasks.contract.podlog import run_program
from tasks.contract.programs.evaluation import CommandConfig, CommandResult

_STOP_S = 5.0


def run_command(config: CommandConfig) -> CommandResult:
    """What the command has said of scores, once it has ended well.

    Raises: GateCommandFailed, GateCommandUnusable.
    """
    heard = Heard()
    with _running(config, heard) as process:
        assert process.stdout
        # A line is read in bounded pieces: one without an end is too much as well.
        while line := process.stdout.readline(MOST_CHARS + 1):
            heard.hear(line.rstrip("\n"))
            sys.stderr.write(line)
            sys.stderr.flush()
        code = process.wait()
    if code:
        ended = f"with exit code {code}" if code > 0 else f"by signal {-code}"
        raise heard.failure(ended)
    return CommandResult(said=heard.scores)


@contextmanager
def _running(config: CommandConfig, heard: Heard) -> Iterator["subprocess.Popen[str]"]:
    """The command's process, which ends with the context."""
    # Ours tell this program where to look, and by what its events are believed.
    kept = {name: text for name, text in os.environ.items() if not name.startswith("KAITOFLOW_")}
    try:
        process = subprocess.Popen(
            config.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=kept | dict(config.environment),
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that what it has started ends with it
        )
    except OSError as error:
        raise heard.failure(f"before it began ({error})") from error
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(run_program(CommandConfig, run_command, sys.argv))
