"""Claims are such that those who are to fulfil them would launch a machine.

The providers' own rules, restated: Azure's (karpenter-provider-azure 352646f5, cloudprovider.go)
and AWS's (karpenter-provider-aws 1d927085, cloudprovider.go, instance/filter) take claims of their
own node class and launch an instance type whose labels are compatible and that has all that is
requested; a label that an instance type does not have has to be one that Karpenter knows. KAITO's
gpu-provisioner takes claims of its class and reads the disk from `storage`.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.contract.quantity import parse_quantity
from tasks.contract.workspace import parse_workspace
from tasks.nodes.claims.node_claim import node_claim
from tasks.nodes.offers import Offer
from tasks.settings import Settings
from tests.builders import tuning_manifest

A100, P4D = "Standard_NC24ads_A100_v4", "p4d.24xlarge"
WELL_KNOWN = {
    *("karpenter.sh/nodepool", "karpenter.sh/capacity-type", "node.kubernetes.io/instance-type"),
    *("topology.kubernetes.io/zone", "topology.kubernetes.io/region"),
    *("kubernetes.io/arch", "kubernetes.io/os"),
    *("karpenter.azure.com/sku-name", "karpenter.k8s.aws/instance-gpu-count"),
}


@dataclass(frozen=True)
class Provider:
    """Who launches machines for claims."""

    group: str
    kind: str
    labels: dict[str, str]
    allocatable: dict[str, str] = field(
        default_factory=lambda: {
            "cpu": "23",
            "memory": "200Gi",
            "ephemeral-storage": "480Gi",
            "pods": "110",
        }
    )

    def launches(self, claim: dict[str, Any]) -> bool:
        reference, asked = claim["spec"]["nodeClassRef"], claim["spec"]["resources"]["requests"]
        if (reference["group"], reference["kind"]) != (self.group, self.kind):
            return False
        have = {name: parse_quantity(amount) for name, amount in self.allocatable.items()}
        if any(parse_quantity(amount) > have.get(name, 0) for name, amount in asked.items()):
            return False
        return all(map(self._is_compatible, claim["spec"]["requirements"]))

    def _is_compatible(self, requirement: dict[str, Any]) -> bool:
        found, values = self.labels.get(requirement["key"]), requirement["values"]
        if found is None:
            return requirement["key"] in WELL_KNOWN
        if requirement["operator"] == "Gt":
            return int(found) > int(values[0])
        return found in values


AZURE = Provider(
    "karpenter.azure.com",
    "AKSNodeClass",
    {
        "node.kubernetes.io/instance-type": A100,
        "karpenter.azure.com/sku-name": A100,
        "kubernetes.io/os": "linux",
        "karpenter.sh/capacity-type": "on-demand",
    },
)
AWS = Provider(
    "karpenter.k8s.aws",
    "EC2NodeClass",
    {
        "node.kubernetes.io/instance-type": P4D,
        "karpenter.k8s.aws/instance-gpu-count": "8",
        "kubernetes.io/os": "linux",
        "karpenter.sh/capacity-type": "on-demand",
    },
)
ON_AZURE = "karpenter.azure.com/AKSNodeClass/default"


def claim(instance_type: str, node_class: str = "", *, disk_gib: int = 100) -> dict[str, Any]:
    manifest = tuning_manifest()
    manifest["metadata"] |= {"namespace": "team", "uid": "1"}
    workspace = parse_workspace(manifest, source="test")
    offer = Offer(instance_type=instance_type)
    return node_claim(workspace, offer, slot=0, disk_gib=disk_gib, node_class=node_class)


def test_karpenter_for_azure_launches_what_is_claimed_of_its_class() -> None:
    assert AZURE.launches(claim(A100, ON_AZURE))


def test_karpenter_for_aws_launches_what_is_claimed() -> None:
    assert AWS.launches(claim(P4D))
    assert AWS.launches(claim(P4D, "karpenter.k8s.aws/EC2NodeClass/gpu"))


def test_a_disk_that_the_node_class_does_not_have_is_not_launched() -> None:
    assert not AZURE.launches(claim(A100, ON_AZURE, disk_gib=500))


def test_the_gpu_provisioner_gets_its_own_class_and_the_disk_by_its_own_name() -> None:
    made = claim(A100, disk_gib=150)
    assert made["spec"]["nodeClassRef"]["kind"] == "KaitoNodeClass"
    assert made["spec"]["resources"]["requests"] == {"storage": "150Gi"}
    assert not AZURE.launches(made)


@pytest.mark.parametrize(
    ("named", "provisioner", "words"),
    [("AKSNodeClass", "karpenter", "a kind and a name"), (ON_AZURE, "byo", "only provisioner")],
)
def test_a_node_class_that_cannot_be_is_refused_with_the_fix(
    named: str, provisioner: Any, words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(platform="kubernetes", provisioner=provisioner, node_class=named)
