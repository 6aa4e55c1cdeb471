"""What a claim's status says when we fulfil it ourselves, in Karpenter's words. Pure."""

from datetime import UTC, datetime
from typing import Any

from tasks.contract.quantity import parse_quantity
from tasks.contract.units import utc_text
from tasks.nodes.claims.node_claim import offer_of
from tasks.nodes.need import GPU
from tasks.platform.wire import Seen, condition, is_condition
from tasks.skus import catalogue


def launching(claim: Seen, *, message: str) -> dict[str, Any]:
    """The status while the machine is being made."""
    return {
        "conditions": [
            _condition(claim, "Launched", "Creating", message),
            _condition(claim, "Registered", "NotLaunched", "the machine is not there yet"),
            _condition(claim, "Initialized", "NotLaunched", "the machine is not there yet"),
        ]
    }


def launched(claim: Seen, node: Seen | None) -> dict[str, Any]:
    """The status once the machine is there: whether it is a node, and the node can be used."""
    if node is None:
        waiting = "the machine has not joined the cluster yet"
        return {
            "conditions": [
                _condition(claim, "Launched"),
                _condition(claim, "Registered", "NodeNotFound", waiting),
                _condition(claim, "Initialized", "NodeNotFound", waiting),
            ]
        }
    return {
        "nodeName": node["metadata"]["name"],
        "providerID": (node.get("spec") or {}).get("providerID", ""),
        "conditions": [
            _condition(claim, "Launched"),
            _condition(claim, "Registered"),
            _condition(claim, "Initialized", *_lack(claim, node)),
        ],
    }


def _lack(claim: Seen, node: Seen) -> tuple[str, str]:
    """Reason and message of what the node lacks; both empty when it can be used."""
    status = node.get("status") or {}
    if not is_condition(node, "Ready"):
        return "NodeNotReady", "the node is not Ready"
    has_gpus = offer_of(claim).instance_type.lower() in catalogue()
    if has_gpus and not parse_quantity((status.get("allocatable") or {}).get(GPU, 0)):
        return "ResourceNotRegistered", f"Kubernetes counts no {GPU} on the node"
    return "", ""


def _condition(claim: Seen, kind: str, lacks: str = "", message: str = "") -> dict[str, str]:
    """A condition, True when nothing is lacking; its time moves only with its status."""
    status = "False" if lacks else "True"
    before = condition(claim, kind)
    is_same = is_condition(claim, kind, status)
    return {
        "type": kind,
        "status": status,
        "reason": lacks or kind,
        "message": message,
        "lastTransitionTime": before["lastTransitionTime"]
        if is_same
        else utc_text(datetime.now(UTC)),
    }
