"""The seam between a run and where its nodes come from.

`local` takes this machine, `byo` waits for nodes that the cluster has; a provisioner that makes
nodes makes them in `ensure_nodes` and gives them back in `release`. Both ensure: repeating a call
is safe, whatever happened in between, and so is a call by another run of the same Workspace.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.artifacts import Node
from tasks.workspace import Workspace

# Told a condition reason and a message, each time that what is waited for changes.
WaitingListener = Callable[[str, str], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class NodeNeed:
    """What a Workspace's pods need of each of their nodes.

    gpus: at least so many; 0 = a node without one will do.
    memory_gib: the estimated peak, of the GPUs where there are some; None = not known.
    instance_type: as the Workspace names it; empty = any.
    labels, expressions: that a node has to match, in the form of a labelSelector.
    tolerations: of a pod template of the user's own, beside those that all our pods have.
    """

    nodes: int = 1
    gpus: int = 1
    memory_gib: float | None = None
    instance_type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    expressions: tuple[Mapping[str, Any], ...] = ()
    tolerations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReadyNodes:
    """Nodes that pods can run on, best first, and what a person is told of them."""

    nodes: tuple[Node, ...]
    detail: str


class Provisioner(Protocol):
    """Where nodes come from."""

    async def ensure_nodes(
        self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
    ) -> ReadyNodes:
        """Nodes that are ready and fit; waits for them until a deadline.

        Raises: NodeNotReady: the deadline passed; says how many nodes lack what.
        """

    async def release(self, workspace: Workspace) -> None:
        """Give back what was made for the Workspace; nothing is done twice."""
