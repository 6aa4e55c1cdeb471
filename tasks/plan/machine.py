"""This machine, where pods run on it: its port, its disk and its memory."""

import shutil
from pathlib import Path

from tasks.contract.artifacts import Check, Node
from tasks.contract.errors import DiskFull, ModelDoesNotFit, PortInUse
from tasks.platform.base import World
from tasks.presets import Preset

_GIB = 2**30
_DISK_SPARE_GIB = 1.0


def port(world: World, number: int) -> str:
    """Check that the port is free.

    Raises: PortInUse.
    """
    if not world.port_is_free(number):
        raise PortInUse(
            f"port {number} was asked for",
            "somebody else listens there",
            "choose another with --port, or leave --port away to get a free one",
        )
    return f"{number} is free"


def disk(preset: Preset | None, home: Path) -> str:
    """What the run takes of the disk that is free.

    Raises: DiskFull.
    """
    weights_gib = (preset.size_gib if preset else None) or 1.0
    needed_gib = weights_gib + _DISK_SPARE_GIB
    there = next(p for p in (home, *home.parents) if p.exists())
    free_gib = shutil.disk_usage(there).free / _GIB
    detail = f"about {needed_gib:.1f} GiB of {free_gib:.0f} GiB free for {home}"
    if free_gib < needed_gib:
        raise DiskFull(
            "",
            detail,
            "free some disk, or set KAITOFLOW_HOME to a folder on a larger one",
        )
    return detail


def memory(memory_gib: float | None, node: Node | None) -> Check | str:
    """The peak, beside what the machine has free.

    Args: node: None = one that has it is looked for.
    Raises: ModelDoesNotFit.
    """
    if memory_gib is None:
        return Check(
            name="memory",
            result="warn",
            detail="unknown until the weights are here",
            fix="the trainer checks it before it loads them",
        )
    if node is None:
        return f"peak about {memory_gib:.1f} GiB; a node that has it is looked for"
    detail = f"peak about {memory_gib:.1f} GiB of {node.memory_gib:.1f} GiB free"
    if memory_gib > node.memory_gib:
        raise ModelDoesNotFit(
            "",
            detail,
            "choose a smaller preset, method qlora, a smaller max_length or batch size, or "
            "a machine with more memory",
        )
    return detail
