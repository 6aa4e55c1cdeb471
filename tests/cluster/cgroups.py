"""Control groups for a node's pods, of version 1 or 2, and their removal."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "kaitoflow-tests"
_EMPTY_LIMIT_S = 30.0


@contextmanager
def removed_at_the_end(name: str) -> Iterator[str]:
    """A control group of every controller, by its path; removed once nothing runs in it.

    Those that killed tests have left are removed too.
    """
    remove_abandoned()
    group = f"{_PREFIX}-{os.getpid()}-{name}"
    for hierarchy in _hierarchies():
        _create(hierarchy / group)
    try:
        yield group
    finally:
        deadline_s = time.monotonic() + _EMPTY_LIMIT_S
        while not _remove(group) and time.monotonic() < deadline_s:
            time.sleep(0.1)


def remove_abandoned() -> None:
    """Remove the groups of tests that do not run any more."""
    for hierarchy in _hierarchies():
        for left in hierarchy.glob(f"{_PREFIX}-*"):
            owner = left.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
            if not psutil.pid_exists(int(owner)):
                _remove(left.name)


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [folder for folder in _ROOT.iterdir() if (folder / "cgroup.procs").exists()]


def _create(group: Path) -> None:
    group.mkdir(exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 leaves them empty
        if (group.parent / setting).exists():
            (group / setting).write_text((group.parent / setting).read_text())


def _remove(group: str) -> bool:
    """Whether it is gone: not while a process ends in it."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / group, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
    return not any((hierarchy / group).exists() for hierarchy in _hierarchies())
