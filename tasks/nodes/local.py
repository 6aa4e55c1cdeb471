"""The node that is this machine."""

from collections.abc import Awaitable, Callable, Collection

from tasks.contract.artifacts import Node
from tasks.contract.held_cost import HeldMachine
from tasks.contract.workspace import Workspace
from tasks.nodes.provisioner import NodeNeed, ReadyNodes, WaitingListener


class LocalProvisioner:
    """This machine, as it is; see `tasks.nodes.provisioner.Provisioner`.

    Whether the Workspace fits is checked before: memory that is free now is in the plan.
    """

    makes_nodes = False

    def __init__(self, this_machine: Callable[[], Awaitable[Node]]) -> None:
        """Look at this machine by `this_machine`."""
        self._this_machine = this_machine

    async def ensure_nodes(
        self,
        workspace: Workspace,  # noqa: ARG002
        need: NodeNeed,  # noqa: ARG002
        *,
        on_waiting: WaitingListener,  # noqa: ARG002
    ) -> ReadyNodes:
        """This machine, at once."""
        node = await self._this_machine()
        detail = f"{node.name}: {node.cores} cores, {node.memory_gib:.1f} GiB free"
        return ReadyNodes(nodes=(node,), detail=detail)

    async def held(self, workspace: Workspace) -> tuple[HeldMachine, ...]:  # noqa: ARG002
        """Nothing: no machine was made."""
        return ()

    async def release(
        self,
        workspace: Workspace,  # noqa: ARG002
        *,
        is_final: bool = True,  # noqa: ARG002
        keep: Collection[str] = (),  # noqa: ARG002
    ) -> tuple[HeldMachine, ...]:
        """Nothing: the machine stays."""
        return ()
