"""What somebody deletes, changes, loses or forgets of a Workspace, and what is to be there again.

A loss is done once; a look at the whole cluster tells, by a Workspace's phase, whether it is back.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.contract.status import MadeObject, status_of
from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.ledger import owner_uid
from tasks.platform.kube_api import KubeApi
from tasks.platform.ownership import fields_digest
from tasks.platform.wire import is_condition, is_pod_ready
from tests.flows.watcher.installation import Installation, true_conditions
from tests.flows.watcher.machines import Machines

Object = dict[str, Any]
KINDS = (
    *("Workspace", "Job", "StatefulSet", "Service", "ConfigMap", "ControllerRevision", "Pod"),
    *("NodeClaim", "Node"),
)
_SERVED = {"Accepted", "NodesReady", "ResourceReady", "InferenceReady", "WorkspaceSucceeded"}


@dataclass
class Cluster:
    """All objects as they were at one look, by kind, namespace and name."""

    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """An object that stays; empty when there is none."""
        found = self.objects.get((kind, namespace, name), {})
        return {} if "deletionTimestamp" in found.get("metadata", {}) else found

    def all(self, kind: str) -> list[Object]:
        return [each for (of, _, _), each in self.objects.items() if of == kind]


async def look(api: KubeApi) -> Cluster:
    """What there is now."""
    lists = await asyncio.gather(*(api.find(kind) for kind in KINDS))
    cluster = Cluster()
    for kind, found in zip(KINDS, lists, strict=True):
        for each in found:
            meta = each["metadata"]
            cluster.objects[kind, meta.get("namespace", ""), meta["name"]] = each
    return cluster


def is_tuning(cluster: Cluster, meta: ObjectMeta) -> bool:
    """Whether a Workspace's Job has what it needs, and its pod trains on a node that is there."""
    name, space = meta.name, meta.namespace
    needed = (("Job", f"{name}-tune-1"), ("ConfigMap", f"{name}-tuning-1"))
    return (
        all(cluster.get(kind, space, each) for kind, each in needed)
        and any(_runs(cluster, pod, "tune") for pod in _pods_of(cluster, meta))
        and _has_its_claims(cluster, meta)
    )


def is_loading(cluster: Cluster, meta: ObjectMeta) -> bool:
    """Whether a Workspace's server has what it needs, and is started on a node that is there."""
    name, space = meta.name, meta.namespace
    needed = (
        *(("StatefulSet", name), ("Service", name), ("Service", f"{name}-headless")),
        ("ConfigMap", f"{name}-inference-1"),
    )
    return (
        all(cluster.get(kind, space, each) for kind, each in needed)
        and _runs(cluster, cluster.get("Pod", space, f"{name}-0"), "serve")
        and _has_its_claims(cluster, meta)
    )


def is_settled(cluster: Cluster, meta: ObjectMeta) -> bool:
    """Whether a Workspace is served as asked, and says so."""
    name, space = meta.name, meta.namespace
    workspace = cluster.get("Workspace", space, name)
    status = status_of(workspace)
    pod = cluster.get("Pod", space, f"{name}-0")
    node = cluster.get("Node", "", pod.get("spec", {}).get("nodeName", "")) if pod else {}
    return (
        status.state == "Ready"
        and true_conditions(workspace["status"]) >= _SERVED
        and bool(status.objects)
        and all(_is_ours(cluster, space, made) for made in status.objects)
        and is_pod_ready(pod)
        and is_condition(node, "Ready")
        and status.worker_nodes == [node["metadata"]["name"]]
        and _has_its_claims(cluster, meta)
    )


def is_refused(cluster: Cluster, meta: ObjectMeta) -> bool:
    """Whether a Workspace was refused for what is not there, or wrong."""
    workspace = cluster.get("Workspace", meta.namespace, meta.name)
    return status_of(workspace).state == "Failed"


Look = Callable[[Cluster, ObjectMeta], bool]
PHASES: dict[str, tuple[Look, Look]] = {
    "tuning": (is_tuning, is_tuning),
    "loading": (is_loading, is_loading),
    "settled": (is_settled, is_settled),
    "refused": (is_refused, is_settled),
}
"""How a Workspace is when it is harmed, and how it has to be after that."""


def _pods_of(cluster: Cluster, meta: ObjectMeta) -> list[Object]:
    return [
        pod
        for pod in cluster.all("Pod")
        if pod["metadata"]["namespace"] == meta.namespace
        and pod["metadata"].get("labels", {}).get("kaito.sh/workspace") == meta.name
    ]


def _runs(cluster: Cluster, pod: Object, container: str) -> bool:
    """Whether the container is at work in a pod that stays, on a node that is there."""
    if not pod or "deletionTimestamp" in pod["metadata"]:
        return False
    node = cluster.get("Node", "", pod["spec"].get("nodeName", ""))
    status = pod.get("status", {})
    statuses = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    running = {each["name"] for each in statuses if "running" in each["state"]}
    return bool(node) and status.get("phase") != "Failed" and container in running


def _is_ours(cluster: Cluster, namespace: str, made: MadeObject) -> bool:
    found = cluster.get(made.kind, namespace, made.name)
    return bool(found) and fields_digest(found) == made.digest


def _has_its_claims(cluster: Cluster, meta: ObjectMeta) -> bool:
    """Whether every machine that is paid for is a claim of it that stays, and no other is there."""
    status = status_of(cluster.get("Workspace", meta.namespace, meta.name))
    held = {machine.name for machine in status.cost.machines if not machine.until}
    claims = [claim for claim in cluster.all("NodeClaim") if owner_uid(claim) == meta.uid]
    there = {claim["metadata"]["name"] for claim in claims}
    return held == there and not any("deletionTimestamp" in each["metadata"] for each in claims)


@dataclass(frozen=True)
class Hands:
    """With what a Workspace is done harm."""

    installed: Installation
    api: KubeApi
    machines: Machines
    cluster: Cluster
    meta: ObjectMeta

    def claim(self) -> str:
        [claim] = [c for c in self.cluster.all("NodeClaim") if owner_uid(c) == self.meta.uid]
        return str(claim["metadata"]["name"])

    def node(self) -> str:
        """The one on which its pods are."""
        [node] = {pod["spec"]["nodeName"] for pod in _pods_of(self.cluster, self.meta)}
        return str(node)

    async def kubectl(self, *arguments: str) -> None:
        here = ("--namespace", self.meta.namespace)
        await asyncio.to_thread(self.installed.kubectl, *arguments, *here)


SERVICE, HEADLESS = ("Service", ""), ("Service", "-headless")
STATEFUL_SET, CONFIG_MAP = ("StatefulSet", ""), ("ConfigMap", "-inference-1")
REVISION = ("ControllerRevision", "-served-1")
JOB, TUNING_CONFIG_MAP = ("Job", "-tune-1"), ("ConfigMap", "-tuning-1")
SERVER = (SERVICE, HEADLESS, STATEFUL_SET, CONFIG_MAP)
Act = Callable[[Hands], Awaitable[object]]


@dataclass(frozen=True)
class Loss:
    """Something that is done to a Workspace.

    has_own_node: whether the Workspace shares its node with no other.
    is_of_claim: whether its claim is harmed.
    config, secret: the ConfigMap and the Secret that it names.
    """

    act: Act
    has_own_node: bool = False
    is_of_claim: bool = False
    config: str = ""
    secret: str = "push"


def deleted(*objects: tuple[str, str]) -> Loss:
    """Objects (kind, how the name goes on) are deleted together."""

    async def act(hands: Hands) -> None:
        meta = hands.meta
        await asyncio.gather(
            *(hands.api.delete(kind, meta.namespace, meta.name + end) for kind, end in objects)
        )

    return Loss(act)


def pods_deleted(pod: str) -> Loss:
    """The pods of the Job or StatefulSet are deleted."""
    labels = f"kaitoflow.io/pod={pod},kaito.sh/workspace="

    async def act(hands: Hands) -> None:
        selector = f"--selector={labels}{hands.meta.name}"
        await hands.kubectl("delete", "pods", selector, "--wait=false")

    return Loss(act)


def by_kubectl(*arguments: str) -> Loss:
    """A command of kubectl; `NAME` stands for the Workspace's."""

    async def act(hands: Hands) -> None:
        await hands.kubectl(*(each.replace("NAME", hands.meta.name) for each in arguments))

    return Loss(act)


def told(status: Mapping[str, Any] | None) -> Loss:
    """The Workspace's status is written by hand."""
    patch = json.dumps({"status": status})
    return by_kubectl(
        *("patch", "workspace", "NAME", "--subresource=status", "--type=merge", f"--patch={patch}")
    )


async def _delete_claim(hands: Hands) -> None:
    await hands.api.delete("NodeClaim", None, hands.claim())


async def _lose_node(hands: Hands) -> None:
    await asyncio.to_thread(hands.machines.lose, hands.node())


async def _delete_claim_and_server(hands: Hands) -> None:
    await asyncio.gather(_delete_claim(hands), deleted(*SERVER).act(hands))


async def _silence_node_for_a_while(hands: Hands) -> None:
    """The node is not ready until the Workspace says so."""
    node = hands.node()
    await _tell_ready(hands, node, value="False")
    async with asyncio.timeout(60):
        while {"NodesReady", "ResourceReady", "InferenceReady"} & await _true_of(hands):
            await asyncio.sleep(0.3)
    await _tell_ready(hands, node, value="True")


async def _tell_ready(hands: Hands, node: str, *, value: str) -> None:
    ready = {"type": "Ready", "status": value, "reason": "KubeletTold", "message": "by hand"}
    patch = {"status": {"conditions": [ready]}}
    await hands.api.merge("Node", None, node, patch, subresource="status")


async def _true_of(hands: Hands) -> set[str]:
    found = await hands.api.get("Workspace", hands.meta.namespace, hands.meta.name)
    assert found
    return true_conditions(found["status"])


def _of_claim(act: Act) -> Loss:
    return Loss(act, has_own_node=True, is_of_claim=True)


CLAIM_DELETED, NODE_LOST = _of_claim(_delete_claim), Loss(_lose_node, has_own_node=True)
_IMAGE = '{"spec":{"template":{"spec":{"containers":[{"name":"serve","image":"another"}]}}}}'
_PORT = '[{"op":"replace","path":"/spec/ports/0/port","value":81}]'

_CONFIG = "training_config: {LoraConfig: {r: 4}}"
_TOLD_CONFIG = f"--from-literal=training_config.yaml={_CONFIG}"
_CORRECTED = json.dumps({"data": {"training_config.yaml": _CONFIG}})
WRONG_CONFIG_MAP = "wrong"
_LOGIN = '--from-literal=.dockerconfigjson={"auths": {}}'

Cells = dict[str, dict[str, Loss]]
CELLS: Cells = {
    "tuning": {
        "job": deleted(JOB),
        "job-and-config-map": deleted(JOB, TUNING_CONFIG_MAP),
        "pod": pods_deleted("tuning"),
        "status-failed": told({"state": "Failed", "conditions": []}),
        "status-emptied": told(None),
        "claim": CLAIM_DELETED,
        "node": NODE_LOST,
    },
    "loading": {
        "service": deleted(SERVICE),
        "headless-service": deleted(HEADLESS),
        "stateful-set": deleted(STATEFUL_SET),
        "config-map": deleted(CONFIG_MAP),
        "all-of-the-server": deleted(*SERVER),
        "pod": pods_deleted("inference"),
        "job": deleted(JOB),
        "job-and-config-map": deleted(JOB, TUNING_CONFIG_MAP),
        "status-failed": told({"state": "Failed", "conditions": []}),
        "claim": CLAIM_DELETED,
        "node": NODE_LOST,
    },
    "settled": {
        "service": deleted(SERVICE),
        "headless-service": deleted(HEADLESS),
        "stateful-set": deleted(STATEFUL_SET),
        "config-map": deleted(CONFIG_MAP),
        "all-of-the-server": deleted(*SERVER),
        "pod": pods_deleted("inference"),
        "job": deleted(JOB, TUNING_CONFIG_MAP),
        "revision": deleted(REVISION),
        "everything": deleted(*SERVER, REVISION, JOB, TUNING_CONFIG_MAP),
        "service-ports": by_kubectl("patch", "service", "NAME", "--type=json", f"--patch={_PORT}"),
        "service-relabelled": by_kubectl(
            "label", "service", "NAME", "--overwrite", "kaitoflow.io/generation=9"
        ),
        "scaled-to-zero": by_kubectl("scale", "statefulset", "NAME", "--replicas=0"),
        "image-changed": by_kubectl("patch", "statefulset", "NAME", f"--patch={_IMAGE}"),
        "config-map-changed": by_kubectl(
            "patch", "configmap", "NAME-inference-1", '--patch={"data":{"serve.json":"{}"}}'
        ),
        "status-failed": told({"state": "Failed", "conditions": []}),
        "status-succeeded": told({"state": "Succeeded"}),
        "status-emptied": told(None),
        "status-of-nobody": told({"state": "Banana"}),
        "conditions-emptied": told({"conditions": []}),
        "worker-nodes-emptied": told({"workerNodes": []}),
        "claim": CLAIM_DELETED,
        "claim-and-server": _of_claim(_delete_claim_and_server),
        "node": NODE_LOST,
        "node-not-ready": Loss(_silence_node_for_a_while, has_own_node=True),
    },
    "refused": {
        "no-secret": replace(
            by_kubectl(
                *("create", "secret", "generic", "later", _LOGIN),
                "--type=kubernetes.io/dockerconfigjson",
            ),
            secret="later",
        ),
        "no-config-map": replace(
            by_kubectl("create", "configmap", "later", _TOLD_CONFIG), config="later"
        ),
        "wrong-config-map": replace(
            by_kubectl("patch", "configmap", WRONG_CONFIG_MAP, f"--patch={_CORRECTED}"),
            config=WRONG_CONFIG_MAP,
        ),
    },
}


def cells_for(provisioner: str) -> Cells:
    """What can be lost where nodes come from there, by phase.

    With Karpenter, only what is harmed of nodes is another thing than with pools of AKS.
    """

    def happens(loss: Loss) -> bool:
        return (
            loss.has_own_node
            if provisioner == "karpenter"
            else provisioner != "byo" or not loss.is_of_claim
        )

    return {
        phase: {name: loss for name, loss in losses.items() if happens(loss)}
        for phase, losses in CELLS.items()
    }
