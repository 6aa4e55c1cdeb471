"""The quick start where we make its node ourselves: an agent pool of AKS, that goes with it.

Real are Azure's own client, watcher, worker and their rights; Azure is a server that answers as it.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from tests.chart.rendering import NAMESPACE, ROOT
from tests.flows.watcher.azure import Azure, azure_before
from tests.flows.watcher.clouds import claiming_installation, claims_of
from tests.flows.watcher.conftest import new_namespace
from tests.flows.watcher.installation import ALL, Installation, true_conditions, wait_until
from tests.nodes.arm import Fault

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

QUICK_START = ROOT / "deployments" / "examples" / "quickstart.yaml"
NAME = "quickstart"
REFUSED_OFFERS = ("configmap", "kaitoflow-unavailable-offers", f"--namespace={NAMESPACE}")
T4 = "Standard_NC4as_T4_v3"
SPOT = {
    "scaleSetPriority": "Spot",
    "scaleSetEvictionPolicy": "Delete",
    "spotMaxPrice": 0.25,
}
SAID_WITHIN_S = 10.0
# A run that gave its nodes back would have by then.
LEFT_ALONE_S = 3.0
# Of two offers, until both are refused and gone: looks at one pool, and at all of them.
LOOKS = 20
QUOTA_SAYS = (
    "Operation could not be completed as it results in exceeding approved LowPriorityCores Quota. "
    "Location: eastus, Current Limit: 3, Current Usage: 0, Additional Required: 4, (Minimum) New "
    "Limit Required: 4."
)


@pytest.fixture(scope="module")
def claiming(
    control_plane: object,  # builds the programs, or skips
    crowded_prefect: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Installation, Azure]]:
    """Kaitoflow installed with provisioner aks, and the Azure that it asks."""
    folder = tmp_path_factory.mktemp("aks")
    with (
        claiming_installation(folder, crowded_prefect, provisioner="aks") as made,
        azure_before(made) as azure,
    ):
        made.settings |= azure.settings
        made.start_worker()
        made.start("watcher")
        yield made, azure
        made.stop()


@pytest.fixture
def installed(claiming: tuple[Installation, Azure]) -> Installation:
    return claiming[0]


@pytest.fixture
def azure(claiming: tuple[Installation, Azure]) -> Azure:
    """It has machines and quota, and was asked for nothing yet; what a failed test left is gone."""
    installed, cloud = claiming
    cloud.held.clear()
    installed.kubectl("delete", "workspaces", "--all", "--all-namespaces")
    wait_until(lambda: not claims_of(installed), "no claim")
    installed.kubectl("delete", *REFUSED_OFFERS, "--ignore-not-found")
    cloud.forget()
    return cloud


def quick_start(namespace: str) -> dict[str, Any]:
    """The example that we ship, its placeholders filled in: dataset, image and Secret."""
    manifest: dict[str, Any] = yaml.safe_load(QUICK_START.read_text())
    manifest["metadata"]["namespace"] = namespace
    manifest["tuning"]["input"]["urls"] = ["https://example.com/data.parquet"]
    image = f"registry.example.com/{namespace}/{NAME}:0.0.1"
    manifest["tuning"]["output"] = {"image": image, "imagePushSecret": "push"}
    return manifest


def expected_pool(name: str, *, namespace: str, uid: str, size: str, **more: Any) -> dict[str, Any]:
    """What Azure is to be asked for, whole."""
    return {
        "name": name,
        "properties": {
            "count": 1,
            "mode": "User",
            "type": "VirtualMachineScaleSets",
            "vmSize": size,
            "osType": "Linux",
            "osSKU": "Ubuntu",
            "osDiskSizeGB": 100,
            "enableAutoScaling": False,
            "gpuProfile": {"driver": "Install", "nvidia": {"managementMode": "Managed"}},
            "nodeLabels": {
                "app": NAME,
                "kaito.sh/machine-type": "gpu",
                "kaito.sh/workspace": NAME,
                "kaito.sh/workspacenamespace": namespace,
                "karpenter.sh/nodepool": "kaito",
            },
            "nodeTaints": ["sku=gpu:NoSchedule"],
            "tags": {
                "kaitoflow-claim": name,
                "kaitoflow-installation": NAMESPACE,
                "kaitoflow-namespace": namespace,
                "kaitoflow-workspace": NAME,
                "kaitoflow-workspace-uid": uid,
            },
            **more,
        },
    }


def uid_of(installed: Installation, namespace: str) -> str:
    return str(installed.get("workspace", namespace, NAME)["metadata"]["uid"])


def delete(installed: Installation, namespace: str) -> None:
    installed.kubectl("delete", "workspace", NAME, f"--namespace={namespace}", "--timeout=120s")


def test_the_quick_start_gets_a_pool_is_served_on_it_and_leaves_none(
    installed: Installation, azure: Azure
) -> None:
    arm, namespace = azure.arm, new_namespace(installed)
    installed.apply(quick_start(namespace))
    status = installed.wait_until_ready(namespace, name=NAME)
    [claim], [put] = claims_of(installed), arm.puts
    name, uid = claim["metadata"]["name"], uid_of(installed, namespace)
    assert azure.claimed == [name]
    assert put == expected_pool(name, namespace=namespace, uid=uid, size="Standard_NC4as_T4_v3")
    assert true_conditions(status) == {*ALL, "NodeClaimReady"}
    assert status["workerNodes"] == [f"aks-{name}-vmss000000"]
    assert claim["status"]["nodeName"] == f"aks-{name}-vmss000000"
    expect_its_cost(status, claim)
    edit_in_vain(installed, namespace)
    assert (claims_of(installed), [*arm.pools]) == ([claim], [name])
    delete(installed, namespace)
    assert (arm.pools, claims_of(installed)) == ({}, [])
    assert (arm.calls["PUT"], arm.calls["DELETE"]) == (1, 1)


def edit_in_vain(installed: Installation, namespace: str) -> None:
    """Name a ConfigMap that is not there: the edit is refused, and what serves goes on."""
    before = true_conditions(installed.get("workspace", namespace, NAME)["status"])
    edited = quick_start(namespace)
    edited["tuning"]["config"] = "not-there"
    installed.apply(edited)
    status = installed.wait_for(
        namespace, lambda s: why_not(s, "Accepted")[0] == "ConfigMapNotFound", name=NAME
    )
    assert true_conditions(status) == before & {
        *("NodeClaimReady", "NodesReady", "ResourceReady", "InferenceReady")
    }
    assert (status["state"], status["observedGeneration"]) == ("Failed", 2)
    assert status["endpoint"]["url"]
    time.sleep(LEFT_ALONE_S)
    assert installed.get("workspace", namespace, NAME)["status"]["workerNodes"]


def expect_its_cost(status: dict[str, Any], claim: dict[str, Any]) -> None:
    """The claim's machine costs from the claim on, and was summed up when the run was over."""
    cost = status["cost"]
    node = cost["machines"][0]["node"]
    assert node in (claim["status"]["nodeName"], "")  # a claim says a little later what it became
    assert cost["machines"] == [
        {
            "name": claim["metadata"]["name"],
            "node": node,
            "instanceType": "Standard_NC4as_T4_v3",
            "capacityType": "on-demand",
            "gpus": 1,
            "pricePerHour": 0.526,
            "since": claim["metadata"]["creationTimestamp"],
            "until": "",
        }
    ]
    assert cost["priceUsd"] == pytest.approx(0.526 * cost["gpuHours"], abs=0.01)
    [over] = [c for c in status["conditions"] if c["type"] == "WorkspaceSucceeded"]
    assert cost["asOf"] >= over["lastTransitionTime"]


@pytest.fixture
def refused(installed: Installation, azure: Azure) -> str:
    """The namespace of a Workspace none of whose offers is to be had.

    For spot there is no quota, which Azure says at once; of the others it makes a pool that fails.
    """
    namespace = new_namespace(installed)
    azure.arm.fault("PUT", Fault(403, "QuotaExceeded", QUOTA_SAYS))
    azure.arm.fails_with[T4] = "AllocationFailed"
    installed.apply(picky(namespace))
    return namespace


def test_without_capacity_it_is_said_why_and_each_offer_was_asked_for_once(
    installed: Installation, azure: Azure, refused: str
) -> None:
    arm = azure.arm
    status = installed.wait_for(refused, rests, name=NAME)
    assert time.monotonic() - arm.refused_s < SAID_WITHIN_S
    reason, message = why_not(status, "ResourceReady")
    assert (reason, message) == why_not(status, "NodeClaimReady")
    assert reason == "InsufficientQuota"
    assert f"spot {T4} in zone 1 or 2: agent pool" in message
    assert "Current Limit: 3, Current Usage: 0, Additional Required: 4" in message
    assert "ask Azure for more cores of this family in this region" in message
    assert f"Azure says AllocationFailed: {T4} cannot be had; wait, or name another" in message
    wait_until(lambda: not claims_of(installed), "the ledger to be empty")
    assert (arm.pools, arm.calls["PUT"], arm.calls["DELETE"]) == ({}, 2, 1)
    assert arm.calls["GET"] + arm.calls["LIST"] <= LOOKS
    delete(installed, refused)


def test_a_refused_offer_is_asked_for_by_nobody_until_its_rest_is_over(
    installed: Installation, azure: Azure, refused: str
) -> None:
    arm, others = azure.arm, new_namespace(installed)
    installed.wait_for(refused, rests, name=NAME)
    wait_until(lambda: not claims_of(installed), "the ledger to be empty")
    calls = about_one_pool(azure)
    installed.apply(picky(others))
    installed.wait_for(others, rests, name=NAME)
    delete(installed, others)
    assert about_one_pool(azure) == calls
    arm.fails_with.clear()
    end_rest(installed)
    installed.wait_until_ready(refused, name=NAME)
    on_demand, spot = arm.puts
    uid, zones = uid_of(installed, refused), {"availabilityZones": ["1", "2"]}
    assert on_demand == expected_pool(
        on_demand["name"], namespace=refused, uid=uid, size=T4, **zones
    )
    assert spot == expected_pool(spot["name"], namespace=refused, uid=uid, size=T4, **zones, **SPOT)
    delete(installed, refused)
    assert (arm.pools, claims_of(installed)) == ({}, [])


def about_one_pool(azure: Azure) -> dict[str, int]:
    """How often Azure was asked for, about or to remove one; the scheduled collection lists all."""
    return {route: azure.arm.calls[route] for route in ("PUT", "GET", "DELETE")}


def picky(namespace: str) -> dict[str, Any]:
    """The quick start with two offers: the same machine as spot, then on demand."""
    manifest = quick_start(namespace)
    manifest["resource"]["instanceType"] = T4
    manifest["metadata"]["annotations"] = {
        "kaitoflow.io/capacity-types": "spot,on-demand",
        "kaitoflow.io/spot-max-price": "0.25",
        "kaitoflow.io/zones": "1,2",
    }
    return manifest


def why_not(status: dict[str, Any], kind: str) -> tuple[str, str]:
    """Reason and message of a condition that is False; empty while it is not."""
    found = [c for c in status.get("conditions", []) if c["type"] == kind]
    is_false = bool(found) and found[0]["status"] == "False"
    return (found[0]["reason"], found[0]["message"]) if is_false else ("", "")


def rests(status: dict[str, Any]) -> bool:
    """Whether all offers are refused, for some time."""
    return "tried again at" in why_not(status, "ResourceReady")[1]


def end_rest(installed: Installation) -> None:
    """As if the hour were over that refused offers rest."""
    kept = json.loads(installed.kubectl("get", *REFUSED_OFFERS, "--output=json"))["data"]
    ago = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    data = {key: json.dumps(json.loads(text) | {"restsUntil": ago}) for key, text in kept.items()}
    patch = json.dumps({"data": data})
    installed.kubectl("patch", *REFUSED_OFFERS, "--type=merge", f"--patch={patch}")
