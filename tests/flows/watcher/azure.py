"""Plays Azure for an installation, in a thread of its own: its pools become nodes, and go."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from typing import Any

from tests.cluster.simulated_node import SimulatedNode
from tests.flows.watcher.clouds import claims_of, joining
from tests.flows.watcher.installation import Installation
from tests.nodes.arm import CLUSTER, GROUP, LOCATION, SUBSCRIPTION, Arm, running_arm

_LIMIT_S = 60.0
Object = dict[str, Any]


class Azure:
    """The ARM server before a cluster."""

    def __init__(self, installed: Installation, arm: Arm) -> None:
        """Args: arm: its hooks become this one's."""
        self._installed, self.arm = installed, arm
        arm.on_asked, arm.on_ready, arm.on_gone = self._note, self._join, self._leave
        self.claimed: list[str] = []
        """Pools that were claimed when they were asked for."""
        self._nodes: dict[str, AbstractContextManager[SimulatedNode]] = {}

    @property
    def settings(self) -> dict[str, str]:
        """With which an installation finds it."""
        return {
            "KAITOFLOW_AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "KAITOFLOW_AZURE_RESOURCE_GROUP": GROUP,
            "KAITOFLOW_AZURE_CLUSTER": CLUSTER,
            "KAITOFLOW_AZURE_LOCATION": LOCATION,
            "KAITOFLOW_AZURE_ENDPOINT": self.arm.url,
        }

    def forget(self) -> None:
        """As on its first day: nothing was asked, and nothing fails."""
        self.claimed.clear()
        for kept in (self.arm.puts, self.arm.calls, self.arm.faults, self.arm.fails_with):
            kept.clear()

    async def _note(self, pool: Object) -> None:
        names = [c["metadata"]["name"] for c in await asyncio.to_thread(claims_of, self._installed)]
        self.claimed += [name for name in names if name == pool["name"]]

    async def _join(self, pool: Object) -> None:
        """With the labels and taints that were asked for, and those that AKS gives."""
        properties, name = pool["properties"], pool["name"]
        node = joining(
            self._installed,
            f"aks-{name}-vmss000000",
            properties["nodeLabels"] | {"agentpool": name},
            instance_type=properties["vmSize"],
            taints=[_taint(each) for each in properties["nodeTaints"]],
            gpus=1,
        )
        await asyncio.to_thread(node.__enter__)
        self._nodes[name] = node

    async def _leave(self, pool: Object) -> None:
        if node := self._nodes.pop(pool["name"], None):
            await asyncio.to_thread(node.__exit__, None, None, None)

    async def end(self) -> None:
        """Machines that nobody gave back go, too."""
        for name in [*self._nodes]:
            await self._leave({"name": name})


@contextmanager
def azure_before(installed: Installation) -> Iterator[Azure]:
    """Azure for as long as the context lasts."""
    loop, running = asyncio.new_event_loop(), AsyncExitStack()
    thread = threading.Thread(target=loop.run_forever, name="azure")
    thread.start()
    try:
        serving = running.enter_async_context(running_arm(Arm()))
        made = Azure(installed, asyncio.run_coroutine_threadsafe(serving, loop).result(_LIMIT_S))
        running.push_async_callback(made.end)
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(running.aclose(), loop).result(_LIMIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _taint(text: str) -> dict[str, str]:
    """As AKS writes one: key=value:effect."""
    key_value, _, effect = text.rpartition(":")
    key, _, value = key_value.partition("=")
    return {"key": key, "value": value, "effect": effect}
