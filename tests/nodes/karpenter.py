"""Plays Karpenter before a real API server: what is claimed is launched, joins and offers GPUs.

By instance type it can be told to play badly. Everything else is real: the CRD is Karpenter's own.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from tasks.nodes.claims.node_claim import CLAIM, offer_of
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.wire import Object
from tests.cluster.build import module_source

TERMINATION = "karpenter.sh/termination"
Conduct = Literal["well", "silent", "no-node", "no-gpu", "deletes"]

_LOOK_EVERY_S = 0.05


def claims_crd() -> str:
    """Karpenter's own definition of NodeClaims, of the version pinned in tests/cluster/go."""
    folder = module_source("karpenter", "sigs.k8s.io/karpenter")
    return (folder / "pkg/apis/crds/karpenter.sh_nodeclaims.yaml").read_text()


class Karpenter:
    """Fulfils our claims until it is stopped; `made` counts the claims it saw by instance type."""

    def __init__(self, api: KubeApi, conducts: Mapping[str, Conduct]) -> None:
        """Args: conducts: by instance type; of others it does well."""
        self._api, self._conducts = api, conducts
        self.made: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._task = asyncio.create_task(self._work(), name="karpenter")

    async def machines(self) -> list[str]:
        """Names of the nodes that it made and that are there."""
        return [
            node["metadata"]["name"] for node in await self._api.find("Node", labels=MANAGED_BY)
        ]

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def evict(self, node: str) -> None:
        """As a cloud does with a spot machine: node and claim are gone."""
        while await self._api.get("Node", None, node):
            # Again, since a claim says a little after its node has joined which one that is.
            for claim in await self._api.find(CLAIM, labels=MANAGED_BY):
                if claim.get("status", {}).get("nodeName") == node:
                    await self._api.delete(CLAIM, None, claim["metadata"]["name"])
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _work(self) -> None:
        while True:
            for claim in await self._api.find(CLAIM, labels=MANAGED_BY):
                await self._advance(claim)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _advance(self, claim: Object) -> None:
        meta, kind = claim["metadata"], offer_of(claim).instance_type
        conduct = self._conducts.get(kind, "well")
        if meta["uid"] not in self._seen:
            self._seen.add(meta["uid"])
            self.made[kind] += 1
        if meta.get("deletionTimestamp"):
            await self._api.delete("Node", None, f"node-{meta['name']}")
            await self._merge(claim, {"metadata": {"finalizers": None}})
        elif conduct == "deletes":
            await self._api.delete(CLAIM, None, meta["name"])
        elif TERMINATION not in meta.get("finalizers", []):
            await self._merge(claim, {"metadata": {"finalizers": [TERMINATION]}})
        elif not claim.get("status", {}).get("nodeName") and conduct != "silent":
            await self._launch(claim, conduct)

    async def _launch(self, claim: Object, conduct: Conduct) -> None:
        name = f"node-{claim['metadata']['name']}"
        conditions = [_condition("Launched", "True")]
        if conduct == "no-node":
            await self._tell(claim, {"conditions": conditions})
            return
        await self._join(claim, name, gpus=0 if conduct == "no-gpu" else 1)
        conditions.append(_condition("Registered", "True"))
        is_done = "False" if conduct == "no-gpu" else "True"
        conditions.append(_condition("Initialized", is_done, "Resource nvidia.com/gpu was 0"))
        await self._tell(claim, {"conditions": conditions, "nodeName": name})

    async def _join(self, claim: Object, name: str, *, gpus: int) -> None:
        kind = offer_of(claim).instance_type
        labels = claim["metadata"]["labels"] | {"node.kubernetes.io/instance-type": kind}
        manifest = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
        }
        await self._api.apply(manifest)
        room = {"cpu": "24", "memory": "220Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        await self._api.merge("Node", None, name, {"status": status}, subresource="status")
        await self._api.merge("Node", None, name, {"spec": {"taints": None}})

    async def _tell(self, claim: Object, status: Object) -> None:
        patch = {"status": status}
        await self._api.merge(CLAIM, None, claim["metadata"]["name"], patch, subresource="status")

    async def _merge(self, claim: Object, patch: Object) -> None:
        await self._api.merge(CLAIM, None, claim["metadata"]["name"], patch)


async def join(api: KubeApi, name: str, *, labels: Mapping[str, str], gpus: int) -> None:
    """Let a machine become a Ready node."""
    meta = {"name": name, "labels": dict(labels)}
    await api.apply({"apiVersion": "v1", "kind": "Node", "metadata": meta})
    room = {"cpu": "24", "memory": "220Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {"capacity": room, "allocatable": room, "conditions": [ready]}
    await api.merge("Node", None, name, {"status": status}, subresource="status")
    await api.merge("Node", None, name, {"spec": {"taints": None}})


def _condition(kind: str, status: str, message: str = "") -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": kind,
        "status": status,
        "reason": kind if status == "True" else f"Not{kind}",
        "message": message,
        "lastTransitionTime": now,
    }
