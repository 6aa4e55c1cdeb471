"""A fair share of the CPUs for the model libraries; to be called before they are imported."""

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


# A token costs some 300 parallel regions. Threads that sleep at each of them lose time alone,
# threads that spin keep the CPU from those they wait for where there is other work. Seen in turns
# of 8 tokens, SmolLM2 on two cores, tokens/s alone (real-time priority) and beside a load of 8:
#
#     GOMP_SPINCOUNT   PASSIVE (0)    300   1000   3000   20000
#     alone                   16.0   19.4   19.0   23.3    27.2
#     beside others           10.7   10.9    9.3    5.4     2.0
#
# Who has the CPUs for the server alone sets GOMP_SPINCOUNT=20000.
_SPINS = "1000"


def share_cpus() -> None:
    """Set up OpenMP, once for this process, to use the CPUs that are given and to spin briefly.

    By itself it counts the node's CPUs, whatever the container may use of them. What the
    environment says already stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if (quota := cpu_quota()) is not None:
        given = min(quota, len(os.sched_getaffinity(0)))
        os.environ.setdefault("OMP_NUM_THREADS", str(given))


def cpu_quota(file: Path = _QUOTA) -> int | None:
    """Whole CPUs that the control group may use, at least one; None without a limit."""
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, math.floor(int(quota) / int(period)))
