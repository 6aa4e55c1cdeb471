"""Plays Azure for an installation, in a thread of its own: its pools become nodes, and go."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.cluster.simulated_node import SimulatedNode, times_started
from tests.flows.watcher.clouds import claims_of, joining
from tests.flows.watcher.installation import Installation
from tests.nodes.arm import (
    CLUSTER,
    GROUP,
    LOCATION,
    SUBSCRIPTION,
    Arm,
    arm_in_a_thread,
    counts_gpus,
)

Object = dict[str, Any]


class Azure:
    """The ARM server before a cluster."""

    def __init__(self, installed: Installation, arm: Arm) -> None:
        """Args: arm: its hooks become this one's."""
        self._installed, self.arm = installed, arm
        arm.on_asked, arm.on_ready, arm.on_gone = self._note, self._join, self._leave
        self.claimed: list[str] = []
        """Pools that were claimed when they were asked for."""
        self.pods: dict[tuple[str, str], list[str]] = defaultdict(list)
        """Names of the pods in which each container was started, on whichever of its nodes."""
        self.held: set[tuple[str, str]] = set()
        """Containers that do not end for as long as they are in here, on whichever of them."""
        self.most_at_once: dict[tuple[str, str], int] = defaultdict(int)
        self._alive: dict[tuple[str, str], int] = defaultdict(int)
        self._nodes: dict[str, AbstractContextManager[SimulatedNode]] = {}

    @property
    def started(self) -> Mapping[tuple[str, str], int]:
        """How often each container was started, on whichever of its nodes."""
        return times_started(self.pods)

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
            gpus=1 if counts_gpus(pool) else 0,
        )
        joined = await asyncio.to_thread(node.__enter__)
        joined.pods, joined.most_at_once = self.pods, self.most_at_once
        joined.alive, joined.held = self._alive, self.held
        self._nodes[name] = node

    async def _leave(self, pool: Object) -> None:
        await asyncio.to_thread(self.lose, pool["name"])

    def lose(self, pool: str) -> None:
        """Let a pool's node go as a machine does that breaks; the pool is left."""
        if node := self._nodes.pop(pool, None):
            node.__exit__(None, None, None)

    def end(self) -> None:
        """Machines that nobody gave back go, too."""
        while self._nodes:
            self._nodes.popitem()[1].__exit__(None, None, None)


@contextmanager
def azure_before(installed: Installation) -> Iterator[Azure]:
    """Azure for as long as the context lasts."""
    with arm_in_a_thread() as arm:
        made = Azure(installed, arm)
        try:
            yield made
        finally:
            made.end()


def _taint(text: str) -> dict[str, str]:
    """As AKS writes one: key=value:effect."""
    key_value, _, effect = text.rpartition(":")
    key, _, value = key_value.partition("=")
    return {"key": key, "value": value, "effect": effect}
