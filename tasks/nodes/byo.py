"""Nodes that the cluster has already: chosen by the Workspace's labels, never made or deleted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from tasks.contract.errors import KubernetesUnavailable, NodeNotReady
from tasks.contract.held_cost import HeldMachine
from tasks.contract.news import NODE_PLUGINS_NOT_READY
from tasks.contract.workspace import Workspace
from tasks.nodes.held_gpus import HolderLister, in_the_way
from tasks.nodes.provisioner import NodeNeed, ReadyNodes, Waiting, WaitingListener
from tasks.nodes.selection import Selection, select_nodes
from tasks.platform.passed_on import queue_of
from tasks.platform.wire import Seen

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 5.0

NodeLister = Callable[[], Awaitable[Sequence[Seen]]]


class ByoProvisioner:
    """Waits for nodes that fit; see `tasks.nodes.provisioner.Provisioner`."""

    makes_nodes = False

    def __init__(
        self,
        list_nodes: NodeLister,
        list_holders: HolderLister,
        *,
        timeout_s: float,
        look_again_s: float = _LOOK_AGAIN_S,
    ) -> None:
        """Choose among every node of the cluster, as the listers have it of the API server."""
        self._list_nodes, self._list_holders = list_nodes, list_holders
        self._timeout_s, self._look_again_s = timeout_s, look_again_s

    async def ensure_nodes(
        self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
    ) -> ReadyNodes:
        """Return as many ready nodes as are asked for, best first, as soon as there are so many.

        Raises: NodeNotReady: not within the time; says how many nodes lack what.
        """
        clock = asyncio.get_running_loop().time
        deadline, told = clock() + self._timeout_s, ""
        while True:
            found = await self._look(workspace, need)
            if isinstance(found, Selection) and found.is_enough:
                return ReadyNodes(nodes=found.nodes, detail=found.detail)
            message = found.message if isinstance(found, Selection) else str(found)
            if clock() >= deadline:
                raise NodeNotReady(
                    message,
                    f"waited {self._timeout_s:.0f} s",
                    "let it wait longer by KAITOFLOW_NODE_READY_TIMEOUT_S",
                )
            if message != told:
                told = message
                logger.info("waiting for nodes workspace=%s: %s", workspace, message)
                await on_waiting(Waiting(reason=_reason(found), message=message))
            await asyncio.sleep(min(self._look_again_s, max(deadline - clock(), 0)))

    async def _look(
        self, workspace: Workspace, need: NodeNeed
    ) -> Selection | KubernetesUnavailable:
        try:
            nodes, holders = await self._list_nodes(), await self._list_holders()
            others = in_the_way(holders, workspace, need)
            if queue_of(workspace):
                others = []  # whose GPUs make way, and when, is the queue's to say
            own = {each.node for each in holders if each.is_of(workspace)}
            return select_nodes(need, nodes, others, preferred=own)
        except KubernetesUnavailable as error:
            return error

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
        """Nothing: who brought the nodes keeps them."""
        return ()


def _reason(found: Selection | KubernetesUnavailable) -> str:
    if isinstance(found, Selection) and found.lacks_plugin:
        return NODE_PLUGINS_NOT_READY
    return NodeNotReady.__name__
