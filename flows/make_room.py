"""A node for what is tuned next, while what is served goes on if it can."""

from tasks.contract.artifacts import Node, Plan, Swap
from tasks.contract.errors import NoOfferLeft
from tasks.contract.workspace import Workspace
from tasks.inference.task import pause_server
from tasks.nodes.task import provision_node


async def make_room(
    workspace: Workspace, plan: Plan, *, is_candidate: bool = False
) -> tuple[Node, bool]:
    """The node for the Workspace, and whether a server that was there has ended for it, or pauses.

    What serves goes on beside the tuning of its successor, unless it is to make room.
    Args: is_candidate: for the very generation that serves.
    """
    memory_gib, may_pause = plan.memory_gib, plan.swap is Swap.SECOND_NODE_OR_PAUSE
    if not plan.server_ends:
        try:
            node = await provision_node(
                workspace,
                memory_gib=memory_gib,
                server_ends=False,
                is_candidate=is_candidate,
                waits=not may_pause,
            )
        except NoOfferLeft:
            if not may_pause:
                raise
        else:
            return node, False
    if plan.swap:
        await pause_server(workspace)
    node = await provision_node(workspace, memory_gib=memory_gib, is_candidate=is_candidate)
    return node, True
