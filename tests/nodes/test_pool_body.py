"""What Azure is asked for follows from the claim alone."""

from typing import Any

import pytest
from azure.mgmt.containerservice.models import AgentPool

from tasks.contract.workspace import parse_workspace
from tasks.nodes.aks.pool_body import pool_body, pool_of
from tasks.nodes.claims.node_claim import claim_name, node_claim
from tasks.nodes.offers import Offer
from tests.builders import tuning_manifest
from tests.nodes.arm import counts_gpus

A100, T4, V620 = "Standard_NC24ads_A100_v4", "Standard_NC4as_T4_v3", "Standard_NG32ads_V620_v1"


def claim(size: str, *, annotations: Any = None, **offer: Any) -> dict[str, Any]:
    manifest = tuning_manifest()
    manifest["metadata"] |= {"namespace": "team", "uid": "1", "annotations": annotations or {}}
    manifest["resource"] = {"labelSelector": {"matchLabels": {"apps": "a", "x.k8s.io/y": "b"}}}
    workspace = parse_workspace(manifest, source="test")
    return node_claim(workspace, Offer(instance_type=size, **offer), slot=0, disk_gib=100)


def body(size: str, *, manages_gpus: bool = True, **claimed: Any) -> dict[str, Any]:
    return pool_body(claim(size, **claimed), installation="here", manages_gpus=manages_gpus)


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


def test_everything_that_azure_is_asked_for_is_said_by_the_claim() -> None:
    assert body(T4, zones=("2",), capacity_type="spot") == {
        "properties": {
            "count": 1,
            "mode": "User",
            "type": "VirtualMachineScaleSets",
            "vmSize": T4,
            "osType": "Linux",
            "osSKU": "Ubuntu",
            "osDiskSizeGB": 100,
            "enableAutoScaling": False,
            "nodeLabels": {
                "apps": "a",
                "karpenter.sh/nodepool": "kaito",
                "kaito.sh/workspace": "tuned",
                "kaito.sh/workspacenamespace": "team",
                "kaito.sh/machine-type": "gpu",
            },
            "nodeTaints": ["sku=gpu:NoSchedule"],
            "tags": {
                "kaitoflow-claim": name_of(T4, zones=("2",), capacity_type="spot"),
                "kaitoflow-installation": "here",
                "kaitoflow-workspace": "tuned",
                "kaitoflow-namespace": "team",
                "kaitoflow-workspace-uid": "1",
            },
            "gpuProfile": {"driver": "Install", "nvidia": {"managementMode": "Managed"}},
            "availabilityZones": ["2"],
            "scaleSetPriority": "Spot",
            "scaleSetEvictionPolicy": "Delete",
            "spotMaxPrice": -1.0,
        }
    }


def name_of(size: str, **offer: Any) -> str:
    return claim_name("1", slot=0, offer=Offer(instance_type=size, **offer))


def test_a_machine_of_no_known_kind_is_labelled_as_one_without_gpus() -> None:
    assert properties("Standard_D4s_v5")["nodeLabels"]["kaito.sh/machine-type"] == "cpu"


def test_a_claim_that_names_no_disk_and_no_taint_gets_the_usual_one_and_none() -> None:
    bare = claim(A100)
    del bare["spec"]["resources"], bare["spec"]["taints"], bare["metadata"]["annotations"]
    asked = pool_body(bare, installation="here")["properties"]
    assert (asked["osDiskSizeGB"], asked["nodeTaints"], asked["osSKU"]) == (100, [], "Ubuntu")


def test_a_taint_without_a_value_is_written_as_azure_does() -> None:
    tainted = claim(A100)
    tainted["spec"]["taints"] = [{"key": "alone", "effect": "NoExecute"}]
    asked = pool_body(tainted, installation="here")["properties"]
    assert asked["nodeTaints"] == ["alone=:NoExecute"]
