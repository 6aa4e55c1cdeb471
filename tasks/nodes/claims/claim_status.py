"""What a claim's status says when we fulfil it ourselves, in Karpenter's words. Pure."""

from datetime import UTC, datetime
from typing import Any

from tasks.contract.quantity import parse_quantity
from tasks.contract.units import utc_text
from tasks.nodes.claims.node_claim import offer_of
from tasks.platform.wire import GPU, Seen, condition, is_condition
from tasks.skus import catalogue

# Reason and message of what a step lacks; both empty when it is done.
_Lack = tuple[str, str]
_DONE: _Lack = ("", "")


def launching(claim: Seen, *, message: str) -> dict[str, Any]:
    """The status while the machine is being made."""
    waiting = ("NotLaunched", "the machine is not there yet")
    return {"conditions": _steps(claim, ("Creating", message), waiting, waiting)}


def launched(claim: Seen, node: Seen | None) -> dict[str, Any]:
    """The status once the machine is there: whether it is a node, and the node can be used."""
    if node is None:
        waiting = ("NodeNotFound", "the machine has not joined the cluster yet")
        return {"conditions": _steps(claim, _DONE, waiting, waiting)}
    return {
        "nodeName": node["metadata"]["name"],
        "providerID": (node.get("spec") or {}).get("providerID", ""),
        "conditions": _steps(claim, _DONE, _DONE, _lack(claim, node)),
    }


def _steps(
    claim: Seen, launched: _Lack, registered: _Lack, initialized: _Lack
) -> list[dict[str, str]]:
    """The conditions of the steps, and that of all together, by which `kubectl` waits."""
    first = next((each for each in (launched, registered, initialized) if each != _DONE), _DONE)
    return [
        _condition(claim, "Launched", *launched),
        _condition(claim, "Registered", *registered),
        _condition(claim, "Initialized", *initialized),
        _condition(claim, "Ready", *first),
    ]


def _lack(claim: Seen, node: Seen) -> _Lack:
    """Reason and message of what the node lacks; both empty when it can be used."""
    status = node.get("status") or {}
    if not is_condition(node, "Ready"):
        return "NodeNotReady", "the node is not Ready"
    has_gpus = offer_of(claim).instance_type.lower() in catalogue()
    if has_gpus and not parse_quantity((status.get("allocatable") or {}).get(GPU, 0)):
        return "ResourceNotRegistered", f"Kubernetes counts no {GPU} on the node"
    return _DONE


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
