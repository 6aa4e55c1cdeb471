"""Claims that we fulfil ourselves: each is an AKS agent pool of one machine."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from azure.mgmt.containerservice.models import AgentPool

from tasks.contract.errors import CloudDenied
from tasks.nodes.aks.agent_pools import AgentPools, failure_of
from tasks.nodes.aks.pool_body import (
    CLAIM_TAG,
    INSTALLATION_TAG,
    NAMESPACE_TAG,
    WORKSPACE_TAG,
    pool_body,
    pool_of,
)
from tasks.nodes.claims.claim_status import launched, launching
from tasks.nodes.claims.node_claim import AGENT_POOL_FINALIZER, CLAIM, state_of
from tasks.nodes.provisioner import Machine
from tasks.nodes.shared_look import SharedLook
from tasks.platform.kube_api import KubeApi
from tasks.platform.node_affinity import OWNER_LABEL, OWNER_NAMESPACE_LABEL
from tasks.platform.wire import Seen, name_of


class AksFulfiller:
    """Makes an agent pool of each claim; see `tasks.nodes.provisioner.Fulfiller`.

    Azure is asked about all pools at once, at most every `look_every_s`, and written to by one at
    a time. A pool that it does not list may have been made since: that it is not there is asked.
    """

    finalizers: tuple[str, ...] = (AGENT_POOL_FINALIZER,)

    def __init__(
        self,
        pools: AgentPools,
        api: Callable[[], Awaitable[KubeApi]],
        *,
        list_nodes: Callable[[], Awaitable[Sequence[Seen]]],
        writing: Callable[[], AbstractAsyncContextManager[Any]],
        installation: str,
        manages_gpus: bool = True,
        look_every_s: float = 5.0,
    ) -> None:
        """Hold `writing` while Azure is written to: a cluster takes one operation at a time.

        installation, manages_gpus: see `pool_body`.
        """
        self._pools, self._api, self._list_nodes = pools, api, list_nodes
        self._writing = writing
        self._installation, self._manages_gpus = installation, manages_gpus
        self._look_every_s = look_every_s
        self._listed = SharedLook(pools.all, fresh_s=look_every_s)
        self._looked_s: dict[str, float] = {}

    async def advance(self, claim: Seen) -> None:
        """Launch the pool, then wait for its node, then for the node's GPUs."""
        state = state_of(claim)
        if state.initialized:
            return
        node = next((n for n in await self._list_nodes() if _is_node_of(n, claim)), None)
        if node or state.launched:
            await self._tell(claim, launched(claim, node))
        elif self._may_look(claim):
            await self._launch(claim)

    async def _launch(self, claim: Seen) -> None:
        name = str(claim["metadata"]["name"])
        pool = await self._seen(name)
        if pool is None:
            await self._tell(claim, launching(claim, message=await self._ask_for(claim)))
            return
        self._expect_ours(pool, name)
        provisioning = _provisioning(pool)
        if provisioning in {"Failed", "Canceled"}:
            raise failure_of(pool)
        if provisioning == "Succeeded":
            await self._tell(claim, launched(claim, None))
            return
        await self._tell(claim, launching(claim, message=f"agent pool is {provisioning}"))

    async def _ask_for(self, claim: Seen) -> str:
        """Have the pool begun, unless another run has just done so; what is to be told of it."""
        name = str(claim["metadata"]["name"])
        async with self._writing():
            if await self._pools.get(name) is None:
                body = pool_body(
                    claim, installation=self._installation, manages_gpus=self._manages_gpus
                )
                if not await self._pools.begin_create(name, body):
                    return "the cluster is busy with another operation; asked again later"
        return "agent pool is asked for"

    def _expect_ours(self, pool: AgentPool, name: str) -> None:
        if not self._is_ours(pool) or _tags(pool).get(CLAIM_TAG) != name:
            raise CloudDenied(
                f"agent pool {name} was to be made",
                "the cluster has one of that name that is not ours",
                "remove or rename it",
            )

    async def _tell(self, claim: Seen, status: Mapping[str, Any]) -> None:
        """Write how far the claim is into its status; nothing is written twice."""
        if all((claim.get("status") or {}).get(key) == value for key, value in status.items()):
            return
        meta = claim["metadata"]
        patch = {"metadata": {"uid": meta["uid"]}, "status": dict(status)}
        await (await self._api()).merge(CLAIM, None, meta["name"], patch, subresource="status")

    async def remove(self, claim: Seen) -> bool:
        """Whether the claim's pool is gone; one of that name that is not ours is none of it."""
        if not self._may_look(claim):
            return False
        name = str(claim["metadata"]["name"])
        pool = await self._seen(name) or await self._pools.get(name)
        if pool is None or not self._is_ours(pool):
            self._listed.forget()  # a claim of that name may be made anew
            return True
        await self._end(pool)
        return False

    async def discard(self, machine: Machine) -> None:
        """Have the pool removed, if it is still ours and for the claim that it was for."""
        pool = await self._pools.get(machine.name)
        if pool and self._is_ours(pool) and _tags(pool).get(CLAIM_TAG, "") == machine.claim:
            await self._end(pool)

    async def _end(self, pool: AgentPool) -> None:
        if _provisioning(pool) != "Deleting":
            async with self._writing():
                await self._pools.begin_delete(pool.name or "")

    async def machines(self) -> Sequence[Machine]:
        """Every agent pool that has this installation's tag."""
        return [_machine(pool) for pool in await self._pools.all() if self._is_ours(pool)]

    async def _seen(self, name: str) -> AgentPool | None:
        """The pool, if Azure has listed it."""
        return next((pool for pool in await self._listed() if pool.name == name), None)

    def _is_ours(self, pool: AgentPool) -> bool:
        return _tags(pool).get(INSTALLATION_TAG) == self._installation

    def _may_look(self, claim: Seen) -> bool:
        """Whether Azure may be asked about this claim's pool again."""
        meta, now_s = claim["metadata"], time.monotonic()
        about = f"{meta['uid']} {'deletionTimestamp' in meta}"
        if now_s - self._looked_s.get(about, -self._look_every_s) < self._look_every_s:
            return False
        self._looked_s[about] = now_s
        return True


def _is_node_of(node: Seen, claim: Seen) -> bool:
    """Whether it is of the claim's pool; one of that name that is not ours has other labels."""
    labels, owner = node["metadata"].get("labels") or {}, claim["metadata"].get("labels") or {}
    is_ours = all(labels.get(key) == owner.get(key) for key in (OWNER_LABEL, OWNER_NAMESPACE_LABEL))
    return is_ours and pool_of(node) == name_of(claim)


def _machine(pool: AgentPool) -> Machine:
    properties, tags = pool.properties, _tags(pool)
    is_spot = bool(properties and properties.scale_set_priority == "Spot")
    owner = tags.get(NAMESPACE_TAG, ""), tags.get(WORKSPACE_TAG, "")
    return Machine(
        name=pool.name or "",
        claim=tags.get(CLAIM_TAG, ""),
        workspace="/".join(part for part in owner if part),
        instance_type=(properties.vm_size if properties else None) or "",
        capacity_type="spot" if is_spot else "on-demand",
        state=_provisioning(pool),
        is_leaving=_provisioning(pool) == "Deleting",
        created=pool.system_data.created_at if pool.system_data else None,
    )


def _provisioning(pool: AgentPool) -> str:
    return (pool.properties.provisioning_state if pool.properties else None) or ""


def _tags(pool: AgentPool) -> Mapping[str, str]:
    return (pool.properties.tags if pool.properties else None) or {}
