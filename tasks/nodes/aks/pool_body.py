"""What an agent pool is asked for to fulfil a claim: the body of the PUT. Pure."""

from collections.abc import Mapping
from typing import Any

from tasks.contract.quantity import parse_quantity
from tasks.nodes.claims.ledger import owner_uid
from tasks.nodes.claims.node_claim import (
    IMAGE_FAMILY_ANNOTATION,
    offer_of,
)
from tasks.platform.node_affinity import OWNER_LABEL, OWNER_NAMESPACE_LABEL
from tasks.skus import catalogue

CLAIM_TAG, INSTALLATION_TAG = "kaitoflow-claim", "kaitoflow-installation"
WORKSPACE_TAG, NAMESPACE_TAG = "kaitoflow-workspace", "kaitoflow-namespace"

# Which Azure puts on each node of a pool.
_POOL_LABELS = ("agentpool", "kubernetes.azure.com/agentpool")
_GIB = 2**30
_OS_SKUS = {"ubuntu": "Ubuntu", "azurelinux": "AzureLinux"}
_ANY_PRICE = -1.0  # Azure's word for "up to the on-demand price"
# Azure's default is the driver alone, and without a device plugin no node ever counts its GPUs.
_GPU_PROFILE = {"driver": "Install", "nvidia": {"managementMode": "Managed"}}


def pool_body(
    claim: Mapping[str, Any], *, installation: str, manages_gpus: bool = True
) -> dict[str, Any]:
    """One machine as the claim says, with tags that name its owner.

    Args: installation: tells this Kaitoflow's pools from those of another on the same cluster.
    manages_gpus: whether AKS is to bring driver and device plugin; else the cluster has its own.
    """
    meta, offer = claim["metadata"], offer_of(claim)
    family = meta.get("annotations", {}).get(IMAGE_FAMILY_ANNOTATION, "ubuntu")
    disk = claim["spec"].get("resources", {}).get("requests", {}).get("storage", "100Gi")
    sku = catalogue().get(offer.instance_type.lower())
    properties: dict[str, Any] = {
        "count": 1,
        "mode": "User",
        "type": "VirtualMachineScaleSets",
        "vmSize": offer.instance_type,
        "osType": "Linux",
        "osSKU": _OS_SKUS.get(family, "Ubuntu"),
        "osDiskSizeGB": round(parse_quantity(disk) / _GIB),
        "enableAutoScaling": False,
        "nodeLabels": _labels(meta["labels"]) | {"kaito.sh/machine-type": "gpu" if sku else "cpu"},
        "nodeTaints": [_taint(each) for each in claim["spec"].get("taints", ())],
        "tags": {
            CLAIM_TAG: meta["name"],
            INSTALLATION_TAG: installation,
            WORKSPACE_TAG: meta["labels"][OWNER_LABEL],
            NAMESPACE_TAG: meta["labels"][OWNER_NAMESPACE_LABEL],
            "kaitoflow-workspace-uid": owner_uid(claim),
        },
    }
    if sku and sku.has_cuda and manages_gpus:
        properties["gpuProfile"] = _GPU_PROFILE
    if offer.zones:
        properties["availabilityZones"] = [*offer.zones]
    if offer.capacity_type == "spot":
        properties |= {
            "scaleSetPriority": "Spot",
            "scaleSetEvictionPolicy": "Delete",
            "spotMaxPrice": offer.max_price or _ANY_PRICE,
        }
    return {"properties": properties}


def pool_of(node: Mapping[str, Any]) -> str:
    """The agent pool that a node is of; empty when it does not say."""
    labels = node["metadata"].get("labels") or {}
    return next((labels[key] for key in _POOL_LABELS if key in labels), "")


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Leave out labels that a kubelet may not give itself: it would not start."""
    return {
        key: value
        for key, value in labels.items()
        if not key.partition("/")[0].endswith(("kubernetes.io", "k8s.io"))
    }


def _taint(taint: Mapping[str, str]) -> str:
    return f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
