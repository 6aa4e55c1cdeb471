"""What a container gets of its node. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """So much of its node as a container asks for, and the most that it may take; None = any."""

    asked: float
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each container of a pod gets of its node.

    All containers of a pod ask for the same: they run one after the other, and the pod is given
    what the largest of them asks for.
    """

    cpu_cores: Amount
    memory_gib: Amount
    disk_gib: Amount
