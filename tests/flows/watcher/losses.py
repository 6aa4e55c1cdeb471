"""What somebody deletes, changes, loses or forgets of a Workspace, and what is to be there again.

A loss is done once; a look at the whole cluster tells, by a Workspace's phase, whether it is back.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.contract.status import MadeObject, WorkspaceStatus, status_of
from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.ledger import owner_uid
from tasks.platform.kube_api import KubeApi
from tasks.platform.ownership import fields_digest
from tasks.platform.wire import is_condition, is_pod_ready
from tests.cluster.simulated_node import SimulatedNode
from tests.flows.watcher.clouds import claims_of, joining, tell_initialized
from tests.flows.watcher.installation import Installation, true_conditions

Object = dict[str, Any]
KINDS = (
    *("Workspace", "Job", "StatefulSet", "Service", "ConfigMap", "ControllerRevision", "Pod"),
    *("NodeClaim", "Node"),
)
_SERVED = {"Accepted", "NodesReady", "ResourceReady", "InferenceReady", "WorkspaceSucceeded"}


class Machines:
    """Makes a node of each claim, and takes it away with the claim, as Karpenter does."""

    def __init__(self, installed: Installation) -> None:
        self._installed = installed
        self._running: dict[str, AbstractContextManager[SimulatedNode]] = {}
        self._claimed_by: dict[str, str] = {}
        self._is_over = False
        self._made = 0

    async def work(self) -> None:
        """Fulfil claims until `end`; then no node is left."""
        while not self._is_over:
            claims = {each["metadata"]["name"]: each for each in await self._claims()}
            for name, of in tuple(self._claimed_by.items()):
                if name not in claims or claims[name]["metadata"]["uid"] != of:
                    await self.lose(name)  # also where a claim of that name was made anew
                    del self._claimed_by[name]
            for name, claim in claims.items():
                if not (claim.get("status") or {}).get("nodeName"):
                    await asyncio.to_thread(self._fulfil, name, claim)
            await asyncio.sleep(0.5)
        for name in tuple(self._running):
            await self.lose(name)

    def end(self) -> None:
        """Fulfil no claim any more; one that is being fulfilled is, for its node is to end, too."""
        self._is_over = True

    async def lose(self, claim: str) -> None:
        """Have a claim's machine gone; the claim stays."""
        if running := self._running.pop(claim, None):
            await asyncio.to_thread(running.__exit__, None, None, None)

    async def _claims(self) -> list[Object]:
        return await asyncio.to_thread(claims_of, self._installed)

    def _fulfil(self, name: str, claim: Object) -> None:
        self._made += 1  # a machine in place of another has another name
        node, labels = f"node-{name}-{self._made}", claim["metadata"]["labels"]
        running = joining(self._installed, node, labels, instance_type="Standard_NC4as_T4_v3")
        machine = running.__enter__()
        machine.held, machine.started = self._installed.node.held, self._installed.node.started
        self._running[name], self._claimed_by[name] = running, claim["metadata"]["uid"]
        with suppress(RuntimeError):  # deleted meanwhile: the next look ends its machine
            tell_initialized(self._installed, claim, node)


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
    has_all = cluster.get("Job", space, f"{name}-tune-1") and cluster.get(
        "ConfigMap", space, f"{name}-tuning-1"
    )
    pods = [
        pod
        for pod in cluster.all("Pod")
        if pod["metadata"]["namespace"] == space
        and pod["metadata"].get("labels", {}).get("kaito.sh/workspace") == name
    ]
    return bool(has_all) and any(_runs(cluster, pod, "tune") for pod in pods)


def is_loading(cluster: Cluster, meta: ObjectMeta) -> bool:
    """Whether a Workspace's server has what it needs, and is started on a node that is there."""
    name, space = meta.name, meta.namespace
    needed = (
        *(("StatefulSet", name), ("Service", name), ("Service", f"{name}-headless")),
        ("ConfigMap", f"{name}-inference-1"),
    )
    has_all = all(cluster.get(kind, space, each) for kind, each in needed)
    return has_all and _runs(cluster, cluster.get("Pod", space, f"{name}-0"), "serve")


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
        and _has_its_claims(cluster, workspace, status)
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


def _has_its_claims(cluster: Cluster, workspace: Object, status: WorkspaceStatus) -> bool:
    """Whether every machine that is paid for is a claim of it that stays, and no other is there."""
    held = {machine.name for machine in status.cost.machines if not machine.until}
    claims = [
        claim
        for claim in cluster.all("NodeClaim")
        if owner_uid(claim) == workspace["metadata"]["uid"]
    ]
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
    """Something that is done to a Workspace, which has its node by a claim or shares one.

    config, secret: the ConfigMap and the Secret that it names.
    """

    act: Act
    is_claimed: bool = False
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
    await hands.machines.lose(hands.claim())


async def _delete_claim_and_server(hands: Hands) -> None:
    await asyncio.gather(_delete_claim(hands), deleted(*SERVER).act(hands))


async def _silence_node_for_a_while(hands: Hands) -> None:
    """The node is not ready until the Workspace says so."""
    [node] = [
        each["status"]["nodeName"]
        for each in hands.cluster.all("NodeClaim")
        if owner_uid(each) == hands.meta.uid
    ]
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


CLAIM_DELETED, NODE_LOST = Loss(_delete_claim, is_claimed=True), Loss(_lose_node, is_claimed=True)
_IMAGE = '{"spec":{"template":{"spec":{"containers":[{"name":"serve","image":"another"}]}}}}'
_PORT = '[{"op":"replace","path":"/spec/ports/0/port","value":81}]'

_CONFIG = "training_config: {LoraConfig: {r: 4}}"
_TOLD_CONFIG = f"--from-literal=training_config.yaml={_CONFIG}"
_CORRECTED = json.dumps({"data": {"training_config.yaml": _CONFIG}})
WRONG_CONFIG_MAP = "wrong"
_LOGIN = '--from-literal=.dockerconfigjson={"auths": {}}'

CELLS: dict[str, dict[str, Loss]] = {
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
        "claim-and-server": Loss(_delete_claim_and_server, is_claimed=True),
        "node": NODE_LOST,
        "node-not-ready": Loss(_silence_node_for_a_while, is_claimed=True),
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
