"""How much memory this process may still take: of the machine, and of its container's limit."""

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """What is free on the machine, or what a container's limit leaves of it."""
    free = int(psutil.virtual_memory().available)
    left = _left_bytes(cgroup)
    return free if left is None else min(free, left)


def _left_bytes(cgroup: Path) -> int | None:
    """What the limit leaves; pages of files that were read are given back before it is reached.

    None = there is no limit.
    """
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return None
