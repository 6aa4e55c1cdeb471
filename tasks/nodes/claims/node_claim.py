"""NodeClaims (karpenter.sh/v1): what is asked for, and how far it has come. Pure.

Fields and labels are KAITO's, so that its gpu-provisioner or Karpenter can fulfil a claim.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from tasks.contract.held_cost import HeldMachine
from tasks.contract.resource_rules import fitting_labels
from tasks.contract.units import utc_moment
from tasks.contract.workspace import Workspace
from tasks.nodes.offers import CapacityType, Offer
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.node_affinity import owner_labels
from tasks.platform.wire import Object, condition, is_condition
from tasks.skus import catalogue

CLAIM = "NodeClaim"
AGENT_POOL_FINALIZER = "kaitoflow.io/agent-pool"
WORKSPACE_UID_ANNOTATION = "kaitoflow.io/workspace-uid"
SLOT_ANNOTATION = "kaitoflow.io/slot"
MAX_PRICE_ANNOTATION = "kaitoflow.io/spot-max-price"
IMAGE_FAMILY_ANNOTATION = "kaito.sh/node-image-family"

_INSTANCE_TYPE = "node.kubernetes.io/instance-type"
_CAPACITY_TYPE = "karpenter.sh/capacity-type"
_ZONE = "topology.kubernetes.io/zone"
_NODE_POOL = "karpenter.sh/nodepool"
# Of KAITO's gpu-provisioner; Karpenter itself knows no such class.
_KAITO_NODE_CLASS = "KaitoNodeClass"
_STEPS = ("Launched", "Registered", "Initialized")


@dataclass(frozen=True, kw_only=True)
class ClaimState:
    """How far a claim has come; `reason` and `message` are of the first step that is not done."""

    launched: bool = False
    registered: bool = False
    initialized: bool = False
    reason: str = ""
    message: str = ""


def claim_name(workspace_uid: str, *, slot: int, offer: Offer) -> str:
    """The name of a claim: always the same for a Workspace's slot and offer, so made twice is once.

    Eleven characters, since an AKS agent pool may have twelve (^[a-z][a-z0-9]{0,11}$).
    """
    told = f"{workspace_uid}/{slot}/{offer}"
    return f"ws{hashlib.sha256(told.encode()).hexdigest()[:9]}"


def node_claim(
    workspace: Workspace,
    offer: Offer,
    *,
    slot: int,
    disk_gib: int,
    finalizers: tuple[str, ...] = (),
    node_class: str = "",
) -> Object:
    """The manifest of one claim.

    Args: slot: which of the Workspace's nodes, from 0. finalizers: of who takes the machine back.
    node_class: GROUP/KIND/NAME of who is to fulfil it; empty = by the offer's cloud.
    """
    reference = _node_class(offer, node_class)
    # Karpenter's providers launch what has all that is requested, and no machine has `storage`;
    # the gpu-provisioner and our agent pools read nothing else.
    is_karpenters = reference["kind"] != _KAITO_NODE_CLASS
    disk = "ephemeral-storage" if is_karpenters else "storage"
    meta = workspace.metadata
    annotations = {
        "karpenter.sh/do-not-disrupt": "true",
        IMAGE_FAMILY_ANNOTATION: meta.annotations.get(IMAGE_FAMILY_ANNOTATION, "ubuntu"),
        WORKSPACE_UID_ANNOTATION: meta.uid,
        SLOT_ANNOTATION: str(slot),
    }
    if offer.max_price is not None:
        annotations[MAX_PRICE_ANNOTATION] = str(offer.max_price)
    metadata: Object = {
        "name": claim_name(meta.uid, slot=slot, offer=offer),
        "labels": _selecting(workspace) | MANAGED_BY | {_NODE_POOL: "kaito"} | owner_labels(meta),
        "annotations": annotations,
    }
    if finalizers:
        metadata["finalizers"] = [*finalizers]
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": CLAIM,
        "metadata": metadata,
        "spec": {
            "nodeClassRef": reference,
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            "requirements": _requirements(offer),
            "resources": {"requests": {disk: f"{disk_gib}Gi"}},
        },
    }


def _selecting(workspace: Workspace) -> dict[str, str]:
    """The labels by which the Workspace selects its nodes."""
    selector = workspace.resource.label_selector
    return fitting_labels(selector.match_labels, selector.match_expressions)


def is_as_asked(claim: Mapping[str, Any], workspace: Workspace, offers: Sequence[Offer]) -> bool:
    """Whether the Workspace, which may have been edited since, would claim such a node now."""
    labels = claim["metadata"].get("labels", {})
    return offer_of(claim) in offers and _selecting(workspace).items() <= labels.items()


def _is_azure(offer: Offer) -> bool:
    return offer.instance_type.lower().startswith("standard_")


def _node_class(offer: Offer, named: str) -> Object:
    if named:
        group, kind, name = named.split("/")
        return {"group": group, "kind": kind, "name": name}
    if _is_azure(offer):
        return {"group": "kaito.sh", "kind": _KAITO_NODE_CLASS, "name": "default"}
    return {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"}


def _requirements(offer: Offer) -> list[Object]:
    wanted = {
        _NODE_POOL: ["kaito"],
        _INSTANCE_TYPE: [offer.instance_type],
        "kubernetes.io/os": ["linux"],
        _CAPACITY_TYPE: [offer.capacity_type],
    }
    if offer.zones:
        wanted[_ZONE] = [*offer.zones]
    if _is_azure(offer):
        wanted["karpenter.azure.com/sku-name"] = [offer.instance_type]
    listed = [{"key": key, "operator": "In", "values": values} for key, values in wanted.items()]
    if not _is_azure(offer):
        listed.append(
            {"key": "karpenter.k8s.aws/instance-gpu-count", "operator": "Gt", "values": ["0"]}
        )
    return listed


def offer_of(claim: Mapping[str, Any]) -> Offer:
    """The offer that a claim was made for."""
    wanted = {each["key"]: each.get("values", []) for each in claim["spec"]["requirements"]}
    price = claim["metadata"].get("annotations", {}).get(MAX_PRICE_ANNOTATION)
    return Offer(
        instance_type=str(next(iter(wanted.get(_INSTANCE_TYPE, [])), "")),
        capacity_type=cast("CapacityType", next(iter(wanted.get(_CAPACITY_TYPE, [])), "on-demand")),
        zones=tuple(wanted.get(_ZONE, ())),
        max_price=float(price) if price else None,
    )


def held_machine(claim: Mapping[str, Any]) -> HeldMachine:
    """The machine of a claim, which is paid for from the claim on; its price is not said."""
    offer = offer_of(claim)
    sku = catalogue().get(offer.instance_type.lower())
    return HeldMachine(
        name=claim["metadata"]["name"],
        node=node_name_of(claim),
        instance_type=offer.instance_type,
        capacity_type=offer.capacity_type,
        gpus=sku.gpus if sku else 0,
        since=claim["metadata"]["creationTimestamp"],
    )


def slot_of(claim: Mapping[str, Any]) -> int:
    """Which of its Workspace's nodes a claim is for."""
    return int(claim["metadata"].get("annotations", {}).get(SLOT_ANNOTATION, "0"))


def state_of(claim: Mapping[str, Any]) -> ClaimState:
    """How far a claim has come."""
    done = [is_condition(claim, step) for step in _STEPS]
    waiting = next((step for step, is_done in zip(_STEPS, done, strict=True) if not is_done), "")
    about = condition(claim, waiting)
    return ClaimState(
        launched=done[0],
        registered=done[1],
        initialized=done[2],
        reason=about.get("reason") or (f"Not{waiting}" if waiting else ""),
        message=about.get("message") or "",
    )


def moment_of(claim: Mapping[str, Any], step: str) -> datetime:
    """When a step of a claim was done; when the claim was made, for a step that was not."""
    is_done = is_condition(claim, step)
    made = claim["metadata"]["creationTimestamp"]
    return utc_moment(condition(claim, step)["lastTransitionTime"] if is_done else made)


def node_name_of(claim: Mapping[str, Any]) -> str:
    """The node that a claim has become; empty while it is none."""
    return str((claim.get("status") or {}).get("nodeName", ""))


def is_leaving(claim: Mapping[str, Any]) -> bool:
    """Whether a claim was given back, and its machine is on its way."""
    return "deletionTimestamp" in claim["metadata"]
