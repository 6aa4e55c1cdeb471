"""The seam between a run and where its nodes come from.

`local` takes this machine, `byo` waits for nodes that the cluster has; a provisioner that makes
nodes makes them in `ensure_nodes` and gives them back in `release`. Both ensure: repeating a call
is safe, whatever happened in between, and so is a call by another run of the same Workspace.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from tasks.contract.artifacts import Node
from tasks.contract.held_cost import HeldMachine
from tasks.contract.workspace import Workspace
from tasks.nodes.offers import CapacityType, Offer


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why there are not enough nodes yet.

    reason, message: as a condition shows them.
    are_claims_ready: whether all claims have become nodes; None = no node is made by a claim.
    machines: those that are paid for while one waits, without their prices; None = not known.
    is_in_vain: whether no node can be had for the time being, whatever is asked of the cloud.
    """

    reason: str
    message: str
    are_claims_ready: bool | None = None
    machines: tuple[HeldMachine, ...] | None = None
    is_in_vain: bool = False


# Told each time that what is waited for changes.
WaitingListener = Callable[[Waiting], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class NodeNeed:
    """What a Workspace's pods need of each of their nodes.

    gpus: at least so many; 0 = a node without one will do.
    memory_gib: the estimated peak, of the GPUs where there are some; None = not known.
    on_each_gpu: whether each GPU has to have that, or all of a node together.
    instance_type: as the Workspace names it; empty = any.
    disk_gib: of a node that is made.
    labels, expressions: that a node has to match, in the form of a labelSelector.
    tolerations: of a pod template of the user's own, beside those that all our pods have.
    server_ends: whether the server of an older generation ends before the pods start, so that its
    GPUs are free for them.
    is_candidate: whether an adapter is made for the generation that serves, whose own server is one
    that goes on, too.
    """

    nodes: int = 1
    gpus: int = 1
    memory_gib: float | None = None
    on_each_gpu: bool = False
    instance_type: str = ""
    disk_gib: int = 100
    labels: Mapping[str, str] = field(default_factory=dict)
    expressions: tuple[Mapping[str, Any], ...] = ()
    tolerations: tuple[Mapping[str, Any], ...] = ()
    server_ends: bool = True
    is_candidate: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadyNodes:
    """Nodes that pods can run on, best first, and what a person is told of them.

    are_claimed: whether nodes are made by claims here.
    machines: those that were made for the Workspace, without their prices.
    """

    nodes: tuple[Node, ...]
    detail: str
    are_claimed: bool = False
    machines: tuple[HeldMachine, ...] = ()

    @property
    def as_one(self) -> Node:
        """The first, with the GPUs that each of them has: pods on several nodes are alike."""
        return self.nodes[0].model_copy(update={"gpus": min(node.gpus for node in self.nodes)})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that was made for a claim, as its maker knows it.

    claim, workspace: their names (namespace/name); empty = it does not say.
    is_leaving: whether it is being removed already.
    created: None = not known.
    """

    name: str
    claim: str
    instance_type: str
    capacity_type: CapacityType
    state: str
    workspace: str = ""
    is_leaving: bool = False
    created: datetime | None = None


class Fulfiller(Protocol):
    """Who makes the machine that a claim asks for, and takes it back."""

    finalizers: tuple[str, ...]
    """Put on each claim, and taken off when its machine is gone."""

    async def advance(self, claim: Mapping[str, Any]) -> None:
        """Bring a claim one step further; never waits long, may be repeated after any crash.

        Raises: OfferUnavailable: the machine cannot be had. CloudDenied, CloudUnavailable.
        """

    async def remove(self, claim: Mapping[str, Any]) -> bool:
        """Whether the machine of a claim is gone; asks for it when it is not. As `advance`."""

    async def machines(self) -> Sequence[Machine]:
        """Every machine that this installation had made and that is still there."""

    async def discard(self, machine: Machine) -> None:
        """Have a machine without a claim removed; one that is not ours, or gone, is left alone."""


class Room(Protocol):
    """What a cloud lets be claimed, besides what is claimed already."""

    async def lack(self, offer: Offer, count: int, claims: Sequence[Mapping[str, Any]]) -> str:
        """Why so many more machines of a kind may not be claimed now; empty = they may.

        Args: claims: all that there are of this installation.
        """


class Provisioner(Protocol):
    """Where nodes come from."""

    makes_nodes: bool
    """Whether nodes are made for a Workspace, and can be made again when they are lost."""

    async def ensure_nodes(
        self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
    ) -> ReadyNodes:
        """Nodes that are ready and fit; waits for them until a deadline.

        Raises: NodeNotReady: the deadline passed; says how many nodes lack what.
        """

    async def held(self, workspace: Workspace) -> tuple[HeldMachine, ...]:
        """What was made for the Workspace and is not on its way back, as it is at this moment."""

    async def release(
        self, workspace: Workspace, *, is_final: bool = True, keep: Collection[str] = ()
    ) -> tuple[HeldMachine, ...]:
        """Give back what was made for the Workspace; the machines that stay. Twice is once.

        Args:
            is_final: also what is made meanwhile; False = that is of the next run, and stays.
            keep: names of nodes that are still used, and stay.
        """
