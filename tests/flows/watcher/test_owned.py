"""What a served Workspace has is compared with what it is to have; its status says what is seen."""

from typing import Any

import pytest

from flows.watcher.owned import Around, as_seen, departures, is_sound, reason_of
from tasks.contract.artifacts import Endpoint
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.news import known_reason
from tasks.contract.status import ConditionType, MadeObject, State, WorkspaceStatus

Object = dict[str, Any]
READY, NODES, RESOURCE = (
    ConditionType.INFERENCE_READY,
    ConditionType.NODES_READY,
    ConditionType.RESOURCE_READY,
)
OBJECTS = {
    ("ConfigMap", "web-inference-1"): "c",
    ("Service", "web"): "s",
    ("Service", "web-headless"): "h",
    ("StatefulSet", "web"): "w",
}


def served(state: State = State.READY, *, claimed: bool = False) -> WorkspaceStatus:
    """The status that a run of generation 1 left, which is served on node gpu-1."""
    status = WorkspaceStatus(state=state, observed_generation=1, worker_nodes=["gpu-1"])
    status.endpoint = Endpoint(url="http://web", model="web")
    status.objects = [
        MadeObject(kind=kind, name=name, digest=digest) for (kind, name), digest in OBJECTS.items()
    ]
    for kind in (NODES, RESOURCE, ConditionType.WORKSPACE_SUCCEEDED):
        status.set_condition(kind, status="True", reason="R")
    reason, message = "WorkspaceInferenceStatusSuccess", "http://web answers"
    status.set_condition(READY, status="True", reason=reason, message=message)
    if claimed:
        machine = {"instance_type": "t", "capacity_type": "spot", "since": "2026-05-01T12:00:00Z"}
        status.cost = Cost(machines=[HeldMachine(name="ws1", **machine)])
    return status


def pod(*, ready: str = "True", node: str = "gpu-1", **metadata: Any) -> Object:
    return {
        "metadata": {"name": "web-0", "namespace": "team", **metadata},
        "spec": {"containers": [{"name": "serve", "image": "i"}], "nodeName": node},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    }


def node(name: str = "gpu-1", *, ready: str = "True") -> Object:
    said = {} if ready == "True" else {"reason": "NodeStatusUnknown", "message": "no heartbeat"}
    condition = {"type": "Ready", "status": ready, **said}
    return {"metadata": {"name": name}, "status": {"conditions": [condition]}}


def claim(**metadata: Any) -> Object:
    return {"metadata": {"name": "ws1", **metadata}}


LEAVING = {"deletionTimestamp": "2026-05-01T12:00:00Z"}


def around(*, without: tuple[str, str] | None = None, **instead: Any) -> Around:
    """All as a served Workspace needs it, but for what is told."""
    objects = {key: digest for key, digest in OBJECTS.items() if key != without}
    told: Object = {"objects": objects, "pods": [pod()], "nodes": {"gpu-1": node()}}
    return Around(**(told | instead))


def changed(kind: str, name: str) -> Around:
    return around(objects=OBJECTS | {(kind, name): "another"})


NO_NODE: Object = {"nodes": {}}
CLAIMED: Object = {"claims": {"ws1": claim()}}
# What is seen, and why a run begins by it; empty = none does.
SEEN: dict[str, tuple[Around, str]] = {
    "all is there": (around(), ""),
    "nothing is known": (Around(), ""),
    "the Service is gone": (around(without=("Service", "web")), "Service web deleted"),
    "the StatefulSet is gone": (around(without=("StatefulSet", "web")), "StatefulSet web deleted"),
    "the ConfigMap is gone": (
        around(without=("ConfigMap", "web-inference-1")),
        "ConfigMap web-inference-1 deleted",
    ),
    "somebody changed the Service": (changed("Service", "web"), "Service web changed"),
    "somebody changed the StatefulSet": (changed("StatefulSet", "web"), "StatefulSet web changed"),
    "everything is gone": (
        around(objects={}),
        (
            "ConfigMap web-inference-1 deleted, Service web deleted, Service web-headless deleted "
            "and 1 more"
        ),
    ),
    "more is there than was made": (around(objects=OBJECTS | {("Service", "other"): "o"}), ""),
    "the pod is gone": (around(pods=[]), ""),
    "the pod is not ready": (around(pods=[pod(ready="False")]), ""),
    "its own node is gone": (around(**NO_NODE), ""),
    "its own node is not ready": (around(nodes={"gpu-1": node(ready="Unknown")}), ""),
    "its claim and its node are there": (around(**CLAIMED), ""),
    "its claimed node is gone": (around(**CLAIMED, **NO_NODE), "node gpu-1 lost"),
    "its claimed node is not ready": (
        around(**CLAIMED, nodes={"gpu-1": node(ready="Unknown")}),
        "",
    ),
    "its claim is gone": (around(claims={}), "claim ws1 deleted"),
    "its claim is being deleted": (
        around(claims={"ws1": claim(**LEAVING)}),
        "claim ws1 is being deleted",
    ),
    "claim and node are gone": (
        around(claims={}, nodes={}, pods=[]),
        "claim ws1 deleted, node gpu-1 lost",
    ),
}


def of(seen: str) -> tuple[WorkspaceStatus, Around, str]:
    found, reason = SEEN[seen]
    return served(claimed=found.claims is not None), found, reason


@pytest.mark.parametrize("seen", SEEN)
def test_a_run_begins_by_what_only_a_run_brings_back(seen: str) -> None:
    status, found, reason = of(seen)
    assert reason_of(departures(status, found)) == (f"repair: {reason}" if reason else "")


# What is seen, and the reasons that NodesReady and InferenceReady give; empty = they are True.
TOLD = {
    "all is there": ("", ""),
    "the Service is gone": ("", "ServiceDeleted"),
    "the StatefulSet is gone": ("", "StatefulSetDeleted"),
    "the ConfigMap is gone": ("", ""),
    "somebody changed the Service": ("", ""),
    "the pod is gone": ("", "WorkspaceInferenceStatusPending"),
    "the pod is not ready": ("", "WorkspaceInferenceStatusPending"),
    "its own node is gone": ("NodeLost", "NodeLost"),
    "its own node is not ready": ("NodeNotReady", "NodeNotReady"),
    "its claimed node is gone": ("NodeLost", "NodeLost"),
    "its claim is gone": ("NodeClaimDeleted", "NodeClaimDeleted"),
    "its claim is being deleted": ("NodeClaimDeleted", "NodeClaimDeleted"),
}


def reason(status: WorkspaceStatus, kind: ConditionType) -> str:
    """Why a condition is not True; empty when it is."""
    condition = status.condition(kind)
    assert condition
    return "" if condition.status == "True" else condition.reason


@pytest.mark.parametrize("seen", TOLD)
def test_conditions_and_state_say_what_is_seen(seen: str) -> None:
    status, found, _ = of(seen)
    told = as_seen(status, found)
    of_nodes, of_server = TOLD[seen]
    assert (reason(told, NODES), reason(told, RESOURCE)) == (of_nodes, of_nodes)
    assert reason(told, READY) == of_server
    assert told.state == (State.NOT_READY if of_server else State.READY)


@pytest.mark.parametrize("seen", SEEN)
def test_what_is_told_once_is_not_told_again(seen: str) -> None:
    status, found, _ = of(seen)
    told = as_seen(status, found)
    assert as_seen(told, found) is told


@pytest.mark.parametrize("seen", TOLD)
def test_what_has_come_back_is_told(seen: str) -> None:
    status, found, _ = of(seen)
    back = around(**CLAIMED) if found.claims is not None else around()
    told = as_seen(as_seen(status, found), back)
    assert (reason(told, NODES), reason(told, READY), told.state) == ("", "", "Ready")


def test_claims_that_an_ended_run_waited_for_are_told_as_nodes_once_these_are_seen() -> None:
    status = served(claimed=True)
    status.set_condition(
        ConditionType.NODE_CLAIM_READY, status="False", reason="NodeClaimNotReady", message="waits"
    )
    told = as_seen(status, around(**CLAIMED))
    assert reason(told, ConditionType.NODE_CLAIM_READY) == ""
    assert as_seen(told, around(**CLAIMED)) is told


def test_a_status_that_says_what_is_seen_stays() -> None:
    status = served()
    assert as_seen(status, around()) is status


def test_the_fate_of_a_node_is_told_in_words_with_what_is_done() -> None:
    told = as_seen(served(), around(nodes={"gpu-1": node(ready="Unknown")}))
    condition = told.condition(RESOURCE)
    assert condition
    assert condition.message == (
        "node gpu-1 is not ready (NodeStatusUnknown: no heartbeat); look at the machine "
        "(kubectl describe node gpu-1)"
    )


def test_a_pod_that_has_moved_to_another_node_of_the_users_own_is_followed() -> None:
    nodes = {"gpu-2": node("gpu-2")}
    told = as_seen(served(), around(pods=[pod(node="gpu-2")], nodes=nodes))
    assert (told.worker_nodes, told.state) == (["gpu-2"], "Ready")


@pytest.mark.parametrize("found", [around(), around(**CLAIMED)], ids=["own", "claimed"])
def test_a_node_that_the_status_does_not_name_any_more_is_named_again(found: Around) -> None:
    status = served(claimed=found.claims is not None)
    status.worker_nodes = []
    assert as_seen(status, found).worker_nodes == ["gpu-1"]


def test_a_leaving_pods_node_is_not_needed() -> None:
    pods = [pod(node="gone", **LEAVING), pod()]
    assert departures(served(), around(pods=pods)) == []


def test_of_several_pods_all_have_to_be_ready() -> None:
    told = as_seen(served(), around(pods=[pod(), pod(ready="False")]))
    assert told.state == "NotReady"


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING])
def test_while_a_run_is_at_work_it_tells_itself(state: State) -> None:
    status = served(state)
    assert as_seen(status, around(pods=[])) is status


def test_what_is_not_served_has_nothing_that_could_leave() -> None:
    status = WorkspaceStatus(state=State.SUCCEEDED, observed_generation=1)
    assert departures(status, Around(objects={}, pods=[], nodes={}, claims={})) == []


def holding(*machines: tuple[str, str]) -> WorkspaceStatus:
    """A served status that holds machines, each a claim and the node that it has become."""
    status = served()
    kind = {"instance_type": "t", "capacity_type": "spot", "since": "2026-05-01T12:00:00Z"}
    status.cost = Cost(
        machines=[HeldMachine(name=name, node=node, **kind) for name, node in machines]
    )
    return status


def test_a_claim_that_its_run_gives_back_is_missed_by_nobody() -> None:
    status = holding(("ws1", "gpu-1"), ("ws2", "gpu-2"))
    for claims in ({"ws1": claim()}, {"ws1": claim(), "ws2": claim(**LEAVING)}):
        assert departures(status, around(claims=claims)) == []


def test_a_claim_that_is_needed_is_missed_whether_or_not_it_is_a_node_yet() -> None:
    status = holding(("ws1", "gpu-1"), ("ws2", ""))
    gone = departures(status, around(claims={}))
    assert [each.what for each in gone] == ["claim ws1 deleted", "claim ws2 deleted"]


def test_what_serves_beside_a_failed_edit_is_told_of_and_comes_back_with_its_correction() -> None:
    status = served(State.FAILED)
    status.observed_generation = 2
    gone = around(without=("Service", "web"))
    told = as_seen(status, gone)
    assert reason_of(departures(status, gone)) == ""
    assert (told.state, reason(told, READY)) == ("Failed", "ServiceDeleted")
    condition = told.condition(READY)
    assert condition
    assert condition.observed_generation == told.served_generation == 1
    assert condition.message.endswith("it comes back with a run of generation 2 that ends well")


REVISION = ("ControllerRevision", "web-served-1")


@pytest.mark.parametrize(
    ("revision", "expected"), [("r", "repair: Service web deleted"), (None, "")]
)
def test_what_serves_beside_a_failed_edit_is_restored_where_it_is_kept(
    revision: str | None, expected: str
) -> None:
    status = served(State.FAILED)
    status.observed_generation = 2
    status.objects.append(MadeObject(kind=REVISION[0], name=REVISION[1], digest="r"))
    there = {key: digest for key, digest in OBJECTS.items() if key != ("Service", "web")}
    if revision:
        there[REVISION] = revision
    assert reason_of(departures(status, around(objects=there))) == expected


def failed(kind: ConditionType, reason: str) -> WorkspaceStatus:
    status = WorkspaceStatus(state=State.FAILED, observed_generation=1)
    status.set_condition(kind, status="False", reason=reason)
    return status


def without(kind: ConditionType, state: State = State.READY) -> WorkspaceStatus:
    status = served(state)
    status.conditions = [each for each in status.conditions if each.type != kind]
    return status


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (served(), True),
        (without(READY), False),
        (without(ConditionType.WORKSPACE_SUCCEEDED), False),
        (without(READY, State.SUCCEEDED), True),
        (served(State.STOPPED), True),
        (without(ConditionType.WORKSPACE_SUCCEEDED, State.STOPPED), False),
        (served(State.NOT_READY), True),
        (served(State.PENDING), True),
        (served(State.FAILED), False),
        (served(State.SUCCEEDED), False),
        (WorkspaceStatus(state=State.READY), False),
        (WorkspaceStatus(state=State.FAILED), False),
        (WorkspaceStatus(state=State.SUCCEEDED), False),
        (failed(ConditionType.ACCEPTED, "SecretNotFound"), True),
        (failed(ConditionType.WORKSPACE_SUCCEEDED, "OutOfMemory"), True),
        (failed(ConditionType.NODES_READY, "NodeLost"), False),
    ],
)
def test_a_state_that_no_run_has_left_is_known(status: WorkspaceStatus, expected: bool) -> None:
    assert is_sound(status) is expected


def test_every_departure_has_a_reason_that_alerts_know() -> None:
    lost = Around(objects={}, claims={}, nodes={"gpu-1": node(ready="False")}, pods=[pod()])
    changed = Around(objects=dict.fromkeys(OBJECTS, "other"), claims={"ws1": claim()}, nodes={})
    for around in (lost, changed):
        gone = departures(served(claimed=True), around)
        assert len(gone) > len(OBJECTS)
        assert [each.reason for each in gone if known_reason(each.reason) == "Other"] == []
