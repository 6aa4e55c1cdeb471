"""What is served gets back what it has lost, though more is lost while it comes."""

import asyncio

import pytest

from flows import restore_workspace as flow
from tasks.contract.artifacts import Node
from tasks.contract.workspace import Workspace
from tasks.nodes import task as step
from tasks.nodes.provisioner import NodeNeed, ReadyNodes, WaitingListener
from tasks.platform.current import local_platform
from tests.nodes.test_provision_step import Maker, workspace

__all__ = ["workspace"]


class Losing(Maker):
    """Shows a node at the first look that is lost by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.seen_again = asyncio.Event()

    async def ensure_nodes(
        self,
        workspace: Workspace,
        need: NodeNeed,
        *,
        on_waiting: WaitingListener,
    ) -> ReadyNodes:
        self.looks += 1
        if self.looks > 1:
            self.seen_again.set()
        node = Node(name="b", cores=1, memory_gib=1)
        return ReadyNodes(nodes=(node,), detail="d", are_claimed=True)


async def test_nodes_are_looked_at_again_while_the_server_is_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing, platform = Losing(), local_platform()

    async def restore_server(_: Workspace) -> Workspace:
        return workspace

    async def answers_on_a_node_that_is_there(_: Workspace) -> None:
        async with asyncio.timeout(10):
            await losing.seen_again.wait()

    monkeypatch.setattr(platform, "restore_server", restore_server)
    monkeypatch.setattr(flow, "await_served", answers_on_a_node_that_is_there)
    for module in (flow, step):
        monkeypatch.setattr(module, "current_provisioner", lambda: losing)
    monkeypatch.setattr(step, "_LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(flow, "provision_node", step.provision_node.fn)
    await flow.restore_workspace.fn(workspace.metadata)
    assert losing.looks > 1
