"""How far a claim is, when it is given up, and what its status says: pure, by the clock's word."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.contract.errors import (
    GpuNotReady,
    NodeLaunchTimedOut,
    NodeRegistrationTimedOut,
    OfferUnavailable,
)
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.claims.claim_status import launched, launching
from tasks.nodes.claims.deadlines import Deadlines, overdue
from tasks.nodes.claims.node_claim import (
    claim_name,
    held_machine,
    is_as_asked,
    is_leaving,
    moment_of,
    node_claim,
    node_name_of,
    offer_of,
    slot_of,
    state_of,
)
from tasks.nodes.offers import Offer
from tests.builders import tuning_manifest

Object = dict[str, Any]
MADE = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEADLINES = Deadlines(launch_s=300, register_s=900, gpu_s=600, capacity_s=3600)
A100 = Offer(instance_type="Standard_NC24ads_A100_v4")
STEPS = ("Launched", "Registered", "Initialized")


def moment(after_s: float) -> str:
    return (MADE + timedelta(seconds=after_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def claim(*done_after_s: float, offer: Offer = A100, slot: int = 0) -> Object:
    """A claim whose steps were done so many seconds after it was made, one after the other."""
    manifest = tuning_manifest()
    manifest["metadata"] |= {"namespace": "team", "uid": "1"}
    manifest["resource"] = {
        "labelSelector": {"matchLabels": {"apps": "a", "kaito.sh/workspace": "x"}}
    }
    workspace = parse_workspace(manifest, source="test")
    made: Object = node_claim(workspace, offer, slot=slot, disk_gib=100)
    made["metadata"]["creationTimestamp"] = moment(0)
    done = dict(zip(STEPS, done_after_s, strict=False))
    waiting = {"status": "False", "reason": "Waiting", "message": "for it"}
    made["status"] = {
        "conditions": [
            {"type": step, "lastTransitionTime": moment(done.get(step, 0))}
            | ({"status": "True"} if step in done else waiting)
            for step in STEPS
        ]
    }
    return made


def node(*, ready: str = "True", gpus: str = "1") -> Object:
    return {
        "metadata": {"name": "gpu-1"},
        "spec": {"providerID": "azure://1"},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"nvidia.com/gpu": gpus} if gpus else {},
        },
    }


@pytest.mark.parametrize(
    ("done", "late_after_s", "error"),
    [
        ((), 300, NodeLaunchTimedOut),
        ((10,), 900, NodeRegistrationTimedOut),
        # From when it joined, not from when it was claimed.
        ((10, 800), 1400, GpuNotReady),
        ((10, 60), 660, GpuNotReady),
    ],
)
def test_a_deadline_runs_from_its_own_beginning(
    done: tuple[float, ...], late_after_s: float, error: type[OfferUnavailable]
) -> None:
    at = MADE + timedelta(seconds=late_after_s)
    assert overdue(claim(*done), DEADLINES, now=at, watched_since=MADE) is None
    found = overdue(claim(*done), DEADLINES, now=at + timedelta(seconds=1), watched_since=MADE)
    assert type(found) is error
    assert "Waiting: for it" in str(found)
    assert str(A100) in str(found)


@pytest.mark.parametrize(
    ("done", "allowed_s"), [((), 300), ((10,), 900), ((10, 60), 600)], ids=("launch", "join", "GPU")
)
def test_time_in_which_nobody_was_there_to_fulfil_or_to_look_counts_for_no_deadline(
    done: tuple[float, ...], allowed_s: float
) -> None:
    back = MADE + timedelta(hours=1)
    late = back + timedelta(seconds=allowed_s)
    assert overdue(claim(*done), DEADLINES, now=late, watched_since=back) is None
    after = late + timedelta(seconds=1)
    assert overdue(claim(*done), DEADLINES, now=after, watched_since=back) is not None


def test_a_claim_that_is_done_is_never_late() -> None:
    later = MADE + timedelta(days=9)
    assert overdue(claim(1, 2, 3), DEADLINES, now=later, watched_since=MADE) is None


def test_how_far_a_claim_is_follows_its_conditions_and_tells_the_first_that_is_not_true() -> None:
    found = state_of(claim(10))
    assert (found.launched, found.registered, found.initialized) == (True, False, False)
    assert (found.reason, found.message) == ("Waiting", "for it")
    done = state_of(claim(1, 2, 3))
    assert (done.initialized, done.reason, done.message) == (True, "", "")
    new = state_of({})
    assert (new.launched, new.reason, new.message) == (False, "NotLaunched", "")


def test_a_step_that_is_not_done_counts_from_when_the_claim_was_made() -> None:
    assert moment_of(claim(10), "Launched") == MADE + timedelta(seconds=10)
    assert moment_of(claim(10), "Registered") == MADE


@pytest.mark.parametrize(
    "offer",
    [
        A100,
        Offer(instance_type="p4d.24xlarge", zones=("1", "2")),
        Offer(instance_type="Standard_NC6s_v3", capacity_type="spot", max_price=1.5),
    ],
)
def test_a_claim_says_for_which_offer_and_slot_it_was_made(offer: Offer) -> None:
    made = claim(offer=offer, slot=3)
    assert (offer_of(made), slot_of(made)) == (offer, 3)


def test_a_claims_name_follows_from_workspace_slot_and_offer_and_fits_an_agent_pool() -> None:
    name = claim_name("1", slot=0, offer=A100)
    assert name == claim_name("1", slot=0, offer=A100)
    others = {
        claim_name("2", slot=0, offer=A100),
        claim_name("1", slot=1, offer=A100),
        claim_name("1", slot=0, offer=Offer(instance_type="other")),
    }
    assert len(others | {name}) == 4
    assert name[0].isalpha()
    assert len(name) <= 12


def test_a_claims_labels_are_the_selectors_without_kaitos_own_and_name_its_workspace() -> None:
    labels = claim()["metadata"]["labels"]
    assert labels["apps"] == "a"
    assert (labels["kaito.sh/workspace"], labels["kaito.sh/workspacenamespace"]) == (
        "tuned",
        "team",
    )


@pytest.mark.parametrize(
    ("instance_type", "group"),
    [("Standard_NC24ads_A100_v4", "kaito.sh"), ("p4d.24xlarge", "karpenter.k8s.aws")],
)
def test_a_claim_refers_to_its_clouds_node_class(instance_type: str, group: str) -> None:
    spec = claim(offer=Offer(instance_type=instance_type))["spec"]
    assert spec["nodeClassRef"]["group"] == group
    keys = {each["key"] for each in spec["requirements"]}
    assert ("karpenter.azure.com/sku-name" in keys) == (group == "kaito.sh")
    assert ("karpenter.k8s.aws/instance-gpu-count" in keys) == (group != "kaito.sh")
    disk = "storage" if group == "kaito.sh" else "ephemeral-storage"
    assert spec["resources"]["requests"] == {disk: "100Gi"}


def test_a_machine_is_paid_for_from_its_claim_on() -> None:
    held = held_machine(claim(60))
    assert (held.since, held.gpus, held.capacity_type) == (moment(0), 1, "on-demand")
    assert held_machine(claim(offer=Offer(instance_type="unknown"))).gpus == 0


def test_a_claim_that_was_given_back_is_leaving() -> None:
    made = claim()
    assert not is_leaving(made)
    made["metadata"]["deletionTimestamp"] = moment(1)
    assert is_leaving(made)


def conditions(status: Object) -> list[tuple[str, str]]:
    """Of the steps; the last one is of all together."""
    *steps, ready = [(each["status"], each["reason"]) for each in status["conditions"]]
    waiting = [each for each in steps if each[0] != "True"]
    assert ready == (waiting[0] if waiting else ("True", "Ready"))
    return steps


def test_a_pool_that_is_being_made_is_not_launched() -> None:
    status = launching(claim(), message="agent pool is Creating")
    assert [status for status, _ in conditions(status)] == ["False"] * 3
    assert status["conditions"][0]["message"] == "agent pool is Creating"


def test_a_machine_that_is_no_node_yet_is_launched_only() -> None:
    status = launched(claim(), None)
    assert [status for status, _ in conditions(status)] == ["True", "False", "False"]
    assert node_name_of({"status": status}) == ""


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (node(), "Initialized"),
        (node(ready="False"), "NodeNotReady"),
        (node(gpus=""), "ResourceNotRegistered"),
        (node(gpus="0"), "ResourceNotRegistered"),
    ],
)
def test_a_node_can_be_used_once_it_is_ready_and_its_gpus_are_counted(
    found: Object, reason: str
) -> None:
    status = launched(claim(), found)
    assert conditions(status)[2] == ("True" if reason == "Initialized" else "False", reason)
    assert (node_name_of({"status": status}), status["providerID"]) == ("gpu-1", "azure://1")


def test_a_machine_without_gpus_needs_none_counted() -> None:
    plain = claim(offer=Offer(instance_type="Standard_D4s_v5"))
    assert conditions(launched(plain, node(gpus="")))[2][0] == "True"


def test_a_conditions_time_moves_only_with_its_status() -> None:
    status = launched(claim(10), None)
    assert status["conditions"][0]["lastTransitionTime"] == moment(10)
    assert launched(claim(), None)["conditions"][0]["lastTransitionTime"] > moment(10)


def wanting(**labels: str) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"] |= {"namespace": "team", "uid": "1"}
    manifest["resource"] = {"labelSelector": {"matchLabels": labels}}
    return parse_workspace(manifest, source="test")


def test_a_claim_is_written_as_kaito_s_provisioners_read_it() -> None:
    offer = Offer(
        instance_type="Standard_NC4as_T4_v3", capacity_type="spot", zones=("1",), max_price=0.5
    )
    made = node_claim(wanting(apps="a"), offer, slot=2, disk_gib=64, finalizers=("x/y",))
    assert made == {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": claim_name("1", slot=2, offer=offer),
            "labels": {
                "apps": "a",
                "app.kubernetes.io/managed-by": "kaitoflow",
                "karpenter.sh/nodepool": "kaito",
                "kaito.sh/workspace": "tuned",
                "kaito.sh/workspacenamespace": "team",
            },
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",
                "kaito.sh/node-image-family": "ubuntu",
                "kaitoflow.io/workspace-uid": "1",
                "kaitoflow.io/slot": "2",
                "kaitoflow.io/spot-max-price": "0.5",
            },
            "finalizers": ["x/y"],
        },
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            "requirements": [
                required("karpenter.sh/nodepool", "kaito"),
                required("node.kubernetes.io/instance-type", "Standard_NC4as_T4_v3"),
                required("kubernetes.io/os", "linux"),
                required("karpenter.sh/capacity-type", "spot"),
                required("topology.kubernetes.io/zone", "1"),
                required("karpenter.azure.com/sku-name", "Standard_NC4as_T4_v3"),
            ],
            "resources": {"requests": {"storage": "64Gi"}},
        },
    }


def required(key: str, *values: str) -> Object:
    return {"key": key, "operator": "In", "values": [*values]}


def test_a_claim_of_another_cloud_names_its_node_class_and_asks_for_a_gpu() -> None:
    made = node_claim(wanting(), Offer(instance_type="p4d.24xlarge"), slot=0, disk_gib=64)
    assert "finalizers" not in made["metadata"]
    assert made["spec"]["nodeClassRef"] == {
        "group": "karpenter.k8s.aws",
        "kind": "EC2NodeClass",
        "name": "default",
    }
    assert made["spec"]["requirements"][-1] == {
        "key": "karpenter.k8s.aws/instance-gpu-count",
        "operator": "Gt",
        "values": ["0"],
    }


@pytest.mark.parametrize(
    ("labels", "offers", "expected"),
    [
        ({"apps": "a"}, (A100,), True),
        ({}, (A100,), True),
        ({"apps": "b"}, (A100,), False),
        ({"apps": "a", "zone": "1"}, (A100,), False),
        ({"apps": "a"}, (Offer(instance_type="p4d.24xlarge"),), False),
        ({"apps": "a"}, (), False),
    ],
)
def test_a_claim_is_kept_after_an_edit_that_asks_for_such_a_node_still(
    labels: dict[str, str], offers: tuple[Offer, ...], *, expected: bool
) -> None:
    made = node_claim(wanting(apps="a"), A100, slot=0, disk_gib=64)
    assert is_as_asked(made, wanting(**labels), offers) is expected


def test_a_claim_of_somebody_else_is_read_as_far_as_it_says_something() -> None:
    bare: Object = {"metadata": {}, "spec": {"requirements": []}}
    assert offer_of(bare) == Offer(instance_type="", capacity_type="on-demand")
    assert (slot_of(bare), node_name_of(bare)) == (0, "")
    assert node_name_of({"status": None}) == ""


def test_each_step_of_a_status_says_what_it_waits_for() -> None:
    [done, registered, initialized, _] = launched(claim(10), None)["conditions"]
    assert (done["type"], done["reason"], done["message"]) == ("Launched", "Launched", "")
    waiting = {
        "status": "False",
        "reason": "NodeNotFound",
        "message": "the machine has not joined the cluster yet",
        "lastTransitionTime": moment(0),
    }
    assert registered == {"type": "Registered"} | waiting
    assert initialized == {"type": "Initialized"} | waiting
    *steps, _ = launching(claim(), message="m")["conditions"]
    assert [(step["type"], step["reason"], step["message"]) for step in steps] == [
        ("Launched", "Creating", "m"),
        ("Registered", "NotLaunched", "the machine is not there yet"),
        ("Initialized", "NotLaunched", "the machine is not there yet"),
    ]


def test_a_node_that_says_nothing_of_itself_is_not_ready_and_of_no_provider() -> None:
    status = launched(claim(), {"metadata": {"name": "n"}})
    assert status["providerID"] == ""
    assert status["conditions"][2]["reason"] == "NodeNotReady"
    assert status["conditions"][2]["message"] == "the node is not Ready"
    ready = {"metadata": {"name": "n"}, "status": {"conditions": node()["status"]["conditions"]}}
    lacking = launched(claim(), ready)["conditions"][2]
    assert lacking["message"] == "Kubernetes counts no nvidia.com/gpu on the node"


def test_a_new_node_gets_the_label_of_an_expression_too() -> None:
    manifest = tuning_manifest()
    expression = {"key": "apps", "operator": "In", "values": ["a"]}
    manifest["resource"] = {"labelSelector": {"matchExpressions": [expression]}}
    workspace = parse_workspace(manifest, source="test")
    made = node_claim(workspace, A100, slot=0, disk_gib=100)
    assert made["metadata"]["labels"]["apps"] == "a"


@pytest.mark.parametrize(
    ("offers", "label", "is_asked"),
    [((A100,), "a", True), ((), "a", False), ((A100,), "b", False)],
    ids=["same", "another instance type", "other labels"],
)
def test_a_claim_is_as_asked_until_the_workspace_asks_for_another(
    offers: tuple[Offer, ...], label: str, *, is_asked: bool
) -> None:
    manifest = tuning_manifest()
    manifest["resource"] = {"labelSelector": {"matchLabels": {"apps": label}}}
    workspace = parse_workspace(manifest, source="test")
    assert is_as_asked(claim(), workspace, offers) == is_asked
