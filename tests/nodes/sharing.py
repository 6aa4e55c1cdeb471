"""A small cluster in memory: who fulfils claims, a scheduler, and Workspaces that come and go.

The ledger, the provisioner and the pods' affinity are the product's. Time passes by ticks.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.claims.claiming import ClaimingProvisioner
from tasks.nodes.claims.deadlines import Deadlines
from tasks.nodes.claims.karpenter import KarpenterFulfiller
from tasks.nodes.claims.ledger import Ledger, owner_uid
from tasks.nodes.claims.node_claim import is_leaving, node_name_of
from tasks.nodes.claims.unavailable import UnavailableOffers
from tasks.nodes.held_gpus import GpuHolder, gpu_holders
from tasks.nodes.need import need_of
from tasks.nodes.offers import Offer, offers_of
from tasks.nodes.provisioner import ReadyNodes
from tasks.nodes.shared_look import SharedLook
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.node_affinity import node_affinity
from tasks.platform.wire import GPU, name_of

Object = dict[str, Any]
PATIENT = Deadlines(launch_s=1e6, register_s=1e6, gpu_s=1e6, capacity_s=1e6, look_again_s=0)
SHARED = {"apps": "shared"}


class Api:
    """As much of an API server as the ledger of claims needs."""

    def __init__(self) -> None:
        self.claims: dict[str, Object] = {}
        self._uids = iter(range(1_000_000))

    async def find(self, kind: str, **_: Any) -> list[Object]:
        assert kind == "NodeClaim"
        return [*self.claims.values()]

    async def create(self, kind: str, _namespace: str | None, body: Object) -> Object | None:
        if kind != "NodeClaim" or body["metadata"]["name"] in self.claims:
            return None
        born = {"uid": f"claim-{next(self._uids)}", "creationTimestamp": "2999-01-01T00:00:00Z"}
        made = body | {"metadata": body["metadata"] | born, "status": {}}
        self.claims[body["metadata"]["name"]] = made
        return made

    async def delete(self, _kind: str, _namespace: str | None, name: str, **_: Any) -> bool:
        if name not in self.claims:
            return False
        self.claims[name]["metadata"].setdefault("deletionTimestamp", "2999-01-01T00:00:00Z")
        return True

    async def get(self, *_: Any) -> None:
        """No offer was ever refused."""


class Living:
    """A Workspace that was applied: its pod is asked for once there is a node for it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.claimed: dict[str, Offer] = {}
        self.has_pod, self.node, self.is_settled = False, "", False
        self.worker_nodes: list[str] = []

    @property
    def name(self) -> str:
        return self.workspace.metadata.name

    def as_listed(self) -> Object:
        meta = {"name": self.name, "namespace": "team", "uid": self.workspace.metadata.uid}
        status = {"state": "Running", "workerNodes": self.worker_nodes}
        return {"metadata": meta, "resource": {"count": 1}, "status": status}


class Cluster:
    """Nodes by name, with the labels that they have; one GPU each."""

    def __init__(self, *, free_nodes: int = 0) -> None:
        self.api = Api()
        self.nodes: dict[str, Mapping[str, str]] = {f"own-{n}": SHARED for n in range(free_nodes)}
        self.living: dict[str, Living] = {}
        self.going: list[asyncio.Task[Any]] = []
        self._generations = iter(range(1_000_000))
        connected = self._connected
        self.provisioner = ClaimingProvisioner(
            Ledger(connected, fresh_s=0.0),
            KarpenterFulfiller(),
            UnavailableOffers(connected, namespace="default"),
            list_nodes=SharedLook(self._listed, fresh_s=0.0),
            list_holders=self._holders,
            list_workspaces=self._workspaces,
            deadlines=PATIENT,
            max_nodes=100,
        )

    async def _connected(self) -> Any:
        return self.api

    async def _workspaces(self) -> list[Object]:
        return [each.as_listed() for each in self.living.values()]

    async def _listed(self) -> list[Object]:
        room = {"cpu": "24", "memory": "220Gi", GPU: "1"}
        status = {"allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}
        return [
            {"metadata": {"name": name, "labels": dict(labels)}, "status": status}
            for name, labels in self.nodes.items()
        ]

    async def _holders(self) -> Sequence[GpuHolder]:
        return gpu_holders(self._pods())

    def _pods(self) -> Iterator[Object]:
        for each in self.living.values():
            labels = MANAGED_BY | {"kaito.sh/workspace": each.name, "kaitoflow.io/pod": "inference"}
            labels["kaitoflow.io/generation"] = str(each.workspace.metadata.generation)
            metadata = {"name": f"{each.name}-0", "namespace": "team", "labels": labels}
            gpu = {"resources": {"limits": {GPU: "1"}}}
            if each.has_pod:
                yield {"metadata": metadata, "spec": {"nodeName": each.node, "containers": [gpu]}}

    def apply(self, name: str) -> None:
        """Have a Workspace that selects nodes as the others do."""
        manifest = {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"{name}-{next(self._generations)}",
            },
            "resource": {
                "instanceType": "Standard_NC24ads_A100_v4",
                "labelSelector": {"matchLabels": SHARED},
            },
            "inference": {"preset": {"name": "phi-4-mini-instruct"}},
        }
        self.living[name] = Living(parse_workspace(manifest, source="test"))

    def delete(self, name: str) -> None:
        """End it with its pod; its nodes are given back meanwhile."""
        gone = self.living.pop(name)
        releasing = self.provisioner.release(gone.workspace)
        self.going.append(asyncio.create_task(releasing))

    async def tick(self) -> None:
        """Let everybody look once, and do what is to be done."""
        for each in [*self.living.values()]:
            await self._run(each)
        self._schedule()
        self._fulfil()
        for _ in range(20):
            await asyncio.sleep(0)

    async def _run(self, each: Living) -> None:
        if each.is_settled and each.node:
            return
        if each.node:
            each.is_settled, each.worker_nodes = True, [each.node]
            await self.provisioner.release(each.workspace, is_final=False, keep={each.node})
            return
        looked = await self.provisioner._look(
            each.workspace, need_of(each.workspace), offers_of(each.workspace), each.claimed
        )
        if isinstance(looked, ReadyNodes):
            each.has_pod, each.worker_nodes = True, [node.name for node in looked.nodes]

    def _schedule(self) -> None:
        """Bind each waiting pod to any node that its affinity lets it use; the last of them."""
        for each in self.living.values():
            if each.has_pod and not each.node:
                in_use = {other.node for other in self.living.values()}
                free = [name for name in self.nodes if name not in in_use]
                allowed = [name for name in free if self.may_use(each, name)]
                each.node = max(allowed, default="")

    def may_use(self, each: Living, node: str) -> bool:
        """Whether the pod's affinity lets it run on a node."""
        affinity = node_affinity(each.workspace, {}, are_nodes_made=True)["nodeAffinity"]
        [required] = affinity.values()
        labels = self.nodes[node]
        return any(
            all(
                each["key"] not in labels
                if each["operator"] == "DoesNotExist"
                else labels.get(each["key"]) in each["values"]
                for each in term["matchExpressions"]
            )
            for term in required["nodeSelectorTerms"]
        )

    def _fulfil(self) -> None:
        """Bring each claim one step further: launched, joined, known by its node; or gone."""
        for name, claim in [*self.api.claims.items()]:
            node, status = f"node-{name}", claim["status"]
            done = {each["type"] for each in status.get("conditions", ())}
            if is_leaving(claim):
                self.nodes.pop(node, None)
                del self.api.claims[name]
                for each in self.living.values():
                    each.node = "" if each.node == node else each.node
            elif "Launched" not in done:
                self._say(claim, "Launched")
            elif node not in self.nodes:
                self.nodes[node] = claim["metadata"]["labels"]
            elif not node_name_of(claim):
                status["nodeName"] = node
                self._say(claim, "Registered", "Initialized")

    def _say(self, claim: Object, *kinds: str) -> None:
        true = {"status": "True", "lastTransitionTime": "2999-01-01T00:00:00Z"}
        conditions = claim["status"].setdefault("conditions", [])
        conditions += [{"type": kind, **true} for kind in kinds]

    def owner_of(self, node: str) -> str:
        """The uid of the Workspace whose claim a node is; empty for one that was there before."""
        claims = self.api.claims.values()
        return next((owner_uid(c) for c in claims if f"node-{name_of(c)}" == node), "")

    def idle(self) -> list[str]:
        """Nodes that are paid for and run nothing."""
        in_use = {each.node for each in self.living.values()}
        return [name_of(c) for c in self.api.claims.values() if f"node-{name_of(c)}" not in in_use]
