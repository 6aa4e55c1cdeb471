"""Nodes that the cluster has already: chosen by the Workspace's labels, never made or deleted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from tasks.contract.errors import KubernetesUnavailable, NodeNotReady
from tasks.contract.held_cost import HeldMachine
from tasks.contract.workspace import Workspace
from tasks.nodes.provisioner import NodeNeed, ReadyNodes, Waiting, WaitingListener
from tasks.nodes.selection import Selection, select_nodes

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 5.0
# KAITO's reason for a node whose GPUs Kubernetes does not count yet.
_NO_PLUGIN = "NodePluginsNotReady"

NodeLister = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]


class ByoProvisioner:
    """Waits for nodes that fit; see `tasks.nodes.provisioner.Provisioner`."""

    makes_nodes = False

    def __init__(
        self, list_nodes: NodeLister, *, timeout_s: float, look_again_s: float = _LOOK_AGAIN_S
    ) -> None:
        """Choose among every node of the cluster, as `list_nodes` has it of the API server."""
        self._list_nodes = list_nodes
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
            found = await self._look(need)
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

    async def _look(self, need: NodeNeed) -> Selection | KubernetesUnavailable:
        try:
            return select_nodes(need, await self._list_nodes())
        except KubernetesUnavailable as error:
            return error

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
        return _NO_PLUGIN
    return NodeNotReady.__name__
