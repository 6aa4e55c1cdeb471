"""Nodes that say that they are about to be taken away, and how what is trained on them leaves."""

from collections.abc import Iterable

from tasks.contract.steps import TUNE
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object, Seen, container_status, is_condition, name_of

# Azure's, which its node problem detector sets half a minute ahead, or minutes.
_CONDITIONS = ("PreemptionScheduled", "PreemptScheduled", "TerminateScheduled")
# GKE's; those of AWS's node termination handler, whose rebalance-recommendation only advises; and
# Karpenter's, which heeds what AWS and Azure say of spot machines.
_TAINTS = (
    "cloud.google.com/impending-node-termination",
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "aws-node-termination-handler/scheduled-maintenance",
    "karpenter.sh/disrupted",
)


def sign_of_leaving(node: Seen) -> str:
    """The condition or taint by which a node says that it is taken away soon; "" = it stays."""
    conditions = {kind for kind in _CONDITIONS if is_condition(node, kind)}
    taints = {each["key"] for each in (node.get("spec") or {}).get("taints") or ()}
    signs = conditions | taints
    return next((each for each in (*_CONDITIONS, *_TAINTS) if each in signs), "")


async def leave_nodes(api: KubeApi, pods: Iterable[Object]) -> dict[str, str]:
    """Evict those of the pods that train on a node that is taken away soon; the nodes' signs.

    So their checkpoint is written and sent before the machine is gone. By an eviction, since a Job
    does not count it among its pods' failures. One that only sends its image goes on: it may be
    done in time.
    """
    left: dict[str, str] = {}
    for pod in pods:
        name = pod["spec"].get("nodeName")
        if not name or pod["metadata"].get("deletionTimestamp") or not _trains(pod):
            continue
        node = await api.get("Node", None, name)
        if node and (sign := sign_of_leaving(node)):
            await api.evict(pod["metadata"]["namespace"], name_of(pod), pod["metadata"]["uid"])
            left[name] = sign
    return left


def _trains(pod: Object) -> bool:
    return "running" in (container_status(pod, TUNE) or {"state": {}})["state"]
