"""Plays Azure for a cluster: the ARM server's pools become nodes of a real API server, and go."""

from collections import Counter
from collections.abc import Mapping

from azure.mgmt.containerservice.aio import ContainerServiceClient

from tasks.nodes.aks.agent_pools import AgentPools, AksCluster
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY
from tests.nodes.arm import CLUSTER, GROUP, Arm, Object, counts_gpus
from tests.nodes.karpenter import Conduct, join


class Azure:
    """What was asked of it, by instance type; see `tests.nodes.karpenter.Karpenter`."""

    def __init__(
        self,
        api: KubeApi,
        arm: Arm,
        client: ContainerServiceClient,
        conducts: Mapping[str, Conduct],
    ) -> None:
        self._api, self.arm, self._client, self._conducts = api, arm, client, conducts
        self.pools = AgentPools(client, AksCluster(resource_group=GROUP, name=CLUSTER))
        for size, conduct in conducts.items():
            if conduct == "silent":
                arm.stuck.add(size)
            if conduct == "deletes":
                arm.fails_with[size] = "AllocationFailed"
        arm.on_ready, arm.on_gone = self._join, self._leave

    @property
    def made(self) -> Counter[str]:
        return Counter(put["properties"]["vmSize"] for put in self.arm.puts)

    async def machines(self) -> list[str]:
        """Names of the pools that are there."""
        return [*self.arm.pools]

    async def evict(self, node: str) -> None:
        """As Azure does with a spot machine: the node is gone, the pool stays."""
        await self._api.delete("Node", None, node)

    async def stop(self) -> None:
        await self.arm.quiet()
        await self._client.close()

    async def _join(self, pool: Object) -> None:
        size, name = pool["properties"]["vmSize"], pool["name"]
        conduct = self._conducts.get(size, "well")
        if conduct != "no-node":
            own = {"agentpool": name, "node.kubernetes.io/instance-type": size}
            labels = pool["properties"]["nodeLabels"] | own | MANAGED_BY
            gpus = 1 if counts_gpus(pool) and conduct != "no-gpu" else 0
            await join(self._api, f"node-{name}", labels=labels, gpus=gpus)

    async def _leave(self, pool: Object) -> None:
        await self._api.delete("Node", None, f"node-{pool['name']}")
