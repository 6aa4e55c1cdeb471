"""What Azure is asked for follows from the claim alone."""

from typing import Any

import pytest
from azure.mgmt.containerservice.models import AgentPool

from tasks.contract.workspace import parse_workspace
from tasks.nodes.aks.pool_body import pool_body, pool_of
from tasks.nodes.claims.node_claim import node_claim
from tasks.nodes.offers import Offer
from tests.builders import tuning_manifest
from tests.nodes.arm import counts_gpus

A100, T4, V620 = "Standard_NC24ads_A100_v4", "Standard_NC4as_T4_v3", "Standard_NG32ads_V620_v1"


def body(
    size: str, *, manages_gpus: bool = True, annotations: Any = None, **offer: Any
) -> dict[str, Any]:
    manifest = tuning_manifest()
    manifest["metadata"] |= {"namespace": "team", "uid": "1", "annotations": annotations or {}}
    manifest["resource"] = {"labelSelector": {"matchLabels": {"apps": "a", "x.k8s.io/y": "b"}}}
    workspace = parse_workspace(manifest, source="test")
    claim = node_claim(workspace, Offer(instance_type=size, **offer), slot=0, disk_gib=100)
    return pool_body(claim, installation="here", manages_gpus=manages_gpus)


def properties(size: str, **options: Any) -> dict[str, Any]:
    return dict(body(size, **options)["properties"])


@pytest.mark.parametrize("size", [A100, A100.lower(), T4])
def test_a_machine_with_nvidias_gpus_gets_driver_and_device_plugin(size: str) -> None:
    assert counts_gpus(body(size))
    pool = AgentPool(body(size)).properties
    assert pool
    assert pool.gpu_profile
    assert pool.gpu_profile.driver == "Install"


@pytest.mark.parametrize("size", [V620, "Standard_D4s_v5"])
def test_a_machine_without_nvidias_gpus_gets_none(size: str) -> None:
    assert "gpuProfile" not in properties(size)


def test_a_cluster_with_a_device_plugin_of_its_own_is_left_to_it() -> None:
    assert "gpuProfile" not in properties(A100, manages_gpus=False)


def test_spot_is_asked_for_up_to_the_price_that_is_named() -> None:
    spot = properties(A100, capacity_type="spot", max_price=1.5)
    assert (spot["scaleSetPriority"], spot["spotMaxPrice"]) == ("Spot", 1.5)
    assert properties(A100, capacity_type="spot")["spotMaxPrice"] == -1.0
    assert "scaleSetPriority" not in properties(A100)


def test_zones_are_named_only_where_the_offer_does() -> None:
    assert properties(A100, zones=("1", "2"))["availabilityZones"] == ["1", "2"]
    assert "availabilityZones" not in properties(A100)


def test_labels_that_a_kubelet_may_not_give_itself_are_left_out() -> None:
    labels = properties(A100)["nodeLabels"]
    assert labels["apps"] == "a"
    assert not [key for key in labels if key.partition("/")[0].endswith("k8s.io")]


def test_the_image_family_that_is_named_is_asked_for() -> None:
    family = {"kaito.sh/node-image-family": "azurelinux"}
    assert properties(A100, annotations=family)["osSKU"] == "AzureLinux"
    assert properties(A100)["osSKU"] == "Ubuntu"


def test_the_disk_is_asked_for_in_gib() -> None:
    assert properties(A100)["osDiskSizeGB"] == 100


@pytest.mark.parametrize("label", ["agentpool", "kubernetes.azure.com/agentpool"])
def test_a_node_says_of_which_pool_it_is(label: str) -> None:
    assert pool_of({"metadata": {"labels": {label: "ws1"}}}) == "ws1"
    assert pool_of({"metadata": {}}) == ""
