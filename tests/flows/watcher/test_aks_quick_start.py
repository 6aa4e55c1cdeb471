"""The quick start where we make the nodes: an agent pool of AKS for the claim, and gone with it.

Real are Azure's own client, watcher, worker and their rights; ARM is a server that answers as it.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart.rendering import NAMESPACE, VARIANTS, render
from tests.cluster.control_plane import ControlPlane
from tests.flows.watcher.clouds import CRD, joining, wanting
from tests.flows.watcher.conftest import installation, new_namespace
from tests.flows.watcher.installation import (
    _RIGHTS,
    ALL,
    Installation,
    true_conditions,
    wait_until,
)
from tests.nodes.arm import CLUSTER, GROUP, LOCATION, SUBSCRIPTION, Arm, arm_in_a_thread

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

REFUSED_SIZES = ("Standard_NC8as_T4_v3", "Standard_NC16as_T4_v3")


@pytest.fixture(scope="module")
def arm() -> Iterator[Arm]:
    with arm_in_a_thread() as running:
        yield running


@pytest.fixture(scope="module")
def claiming(
    control_plane: ControlPlane,  # builds the programs, or skips
    arm: Arm,
    prefect_home: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Kaitoflow as the chart installs it for AKS, with the chart's definition of NodeClaims."""
    with installation(tmp_path_factory.mktemp("claiming"), prefect_home) as made:
        chart = render(VARIANTS["aks"], knows_claims=False)
        definition = next(each for each in chart if each["metadata"]["name"] == CRD)
        made.control_plane.define(CRD, json.dumps(definition))
        rights = [each for each in chart if each["kind"] in _RIGHTS]
        made.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(rights))
        made.settings |= {
            "KAITOFLOW_PROVISIONER": "aks",
            "KAITOFLOW_NAMESPACE": NAMESPACE,
            "KAITOFLOW_AZURE_ENDPOINT": arm.url,
            "KAITOFLOW_AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "KAITOFLOW_AZURE_RESOURCE_GROUP": GROUP,
            "KAITOFLOW_AZURE_CLUSTER": CLUSTER,
            "KAITOFLOW_AZURE_LOCATION": LOCATION,
        }
        made.start_worker()
        made.start("watcher")
        yield made


def claims(claiming: Installation) -> list[dict[str, Any]]:
    found = json.loads(claiming.kubectl("get", "nodeclaims", "--output=json"))
    return list(found["items"])


def puts_for(arm: Arm, namespace: str) -> list[dict[str, Any]]:
    """The bodies with which agent pools were asked for."""
    return [p for p in arm.puts if p["properties"]["tags"]["kaitoflow-namespace"] == namespace]


def test_a_workspace_s_claim_is_an_agent_pool_that_goes_with_it(
    claiming: Installation, arm: Arm
) -> None:
    namespace, asked_before = new_namespace(claiming), arm.calls.copy()
    claiming.apply(wanting(namespace))
    [pool] = wait_until(lambda: puts_for(arm, namespace), "an agent pool to be asked for")
    [claim] = claims(claiming)
    name = claim["metadata"]["name"]
    assert pool == {
        "name": name,
        "properties": {
            "count": 1,
            "mode": "User",
            "type": "VirtualMachineScaleSets",
            "vmSize": "Standard_NC6s_v3",
            "osType": "Linux",
            "osSKU": "Ubuntu",
            "osDiskSizeGB": 100,
            "enableAutoScaling": False,
            "nodeLabels": {
                "apps": namespace,
                "karpenter.sh/nodepool": "kaito",
                "kaito.sh/workspace": "tuned",
                "kaito.sh/workspacenamespace": namespace,
                "kaito.sh/machine-type": "gpu",
            },
            "nodeTaints": ["sku=gpu:NoSchedule"],
            "tags": {
                "kaitoflow-claim": name,
                "kaitoflow-installation": NAMESPACE,
                "kaitoflow-workspace": "tuned",
                "kaitoflow-namespace": namespace,
                "kaitoflow-workspace-uid": claiming.uid(namespace),
            },
        },
    }
    labels = pool["properties"]["nodeLabels"] | {"agentpool": name}
    with joining(claiming, f"aks-{name}", labels, instance_type="Standard_NC6s_v3"):
        status = claiming.wait_until_ready(namespace)
        assert true_conditions(status) == {*ALL, "NodeClaimReady"}
        assert status["workerNodes"] == [f"aks-{name}"]
        claiming.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=60s")
    assert (arm.pools, claims(claiming)) == ({}, [])
    asked = arm.calls - asked_before
    assert (asked["PUT"], asked["DELETE"]) == (1, 1)


def test_spot_machines_in_a_zone_up_to_a_price_are_asked_for_as_such(
    claiming: Installation, arm: Arm
) -> None:
    namespace = new_namespace(claiming)
    wishes = {"capacity-types": "spot", "zones": "2", "spot-max-price": "1.5"}
    annotations = {f"kaitoflow.io/{key}": value for key, value in wishes.items()}
    claiming.apply(wanting(namespace, **annotations))
    [pool] = wait_until(lambda: puts_for(arm, namespace), "an agent pool to be asked for")
    asked = {
        "availabilityZones": ["2"],
        "scaleSetPriority": "Spot",
        "scaleSetEvictionPolicy": "Delete",
        "spotMaxPrice": 1.5,
    }
    assert {key: pool["properties"].get(key) for key in asked} == asked
    claiming.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=60s")
    assert (arm.pools, claims(claiming)) == ({}, [])


def test_when_no_offer_can_be_had_it_says_what_to_do_and_asks_no_more(
    claiming: Installation, arm: Arm
) -> None:
    namespace, asked_before = new_namespace(claiming), arm.calls.copy()
    no_capacity, no_quota = REFUSED_SIZES
    arm.fails_with |= {no_capacity: "AllocationFailed", no_quota: "QuotaExceeded"}
    manifest = wanting(namespace, **{"kaitoflow.io/instance-types": no_quota})
    manifest["resource"]["instanceType"] = no_capacity
    claiming.apply(manifest)
    status = claiming.wait_for(namespace, lambda s: "tried again at" in json.dumps(s))
    told = next(c for c in status["conditions"] if c["type"] == "NodeClaimReady")
    assert (told["status"], told["reason"]) == ("False", "InsufficientCapacity")
    for words in (no_capacity, no_quota, "ask Azure for more cores of this family", "wait, or"):
        assert words in told["message"]
    sizes = sorted(put["properties"]["vmSize"] for put in puts_for(arm, namespace))
    assert sizes == sorted(REFUSED_SIZES)
    asked = arm.calls - asked_before
    assert asked["PUT"] == len(REFUSED_SIZES)
    wait_until(lambda: not claims(claiming), "what was refused to be given back")
    claiming.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=60s")
