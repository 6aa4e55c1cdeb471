"""Work that may hang or take all memory, done in a process whose time and memory the system bounds.

For what cannot be ended from within: one call of an expression that backtracks, one filter that
pads a text to a terabyte. Such a program is a module that calls `serve` and is started by `ask`.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

MOST_CPU_S = 3
_MOST_MEMORY_BYTES = 2**29
# On a busy machine the process waits for its turn.
WITHIN_S = 60.0


class Overrun(Exception):
    """There was no answer within the time and the memory; the message says how much that is."""


def ask(module: str, question: object) -> Any:
    """What the program makes of the question; both are JSON. Raises: Overrun."""
    command = [sys.executable, "-P", "-m", module, str(MOST_CPU_S)]
    try:
        ended = subprocess.run(
            command,
            input=json.dumps(question),
            capture_output=True,
            check=False,
            text=True,
            timeout=WITHIN_S,
        )
        return json.loads(ended.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        bounds = f"over {MOST_CPU_S} s or {_MOST_MEMORY_BYTES // 2**20} MiB"
        raise Overrun(f"it takes {bounds}") from None


def serve(answer: Callable[[Any], object]) -> None:
    """Answer the question on standard input, within the bounds; the program's whole `main`."""
    most_cpu_s = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (most_cpu_s, most_cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
