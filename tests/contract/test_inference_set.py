"""What an InferenceSet asks for: numbered members, changed one by one, told in one line."""

import copy
from typing import Any

import pytest

from tasks.contract.inference_set import (
    CREATED_BY,
    Object,
    budget_of,
    changes,
    member_of,
    service_of,
    status_of_set,
)
from tasks.contract.workspace import parse_workspace
from tasks.platform.passed_on import pod_labels

NOW = "2026-11-30T12:00:00Z"


def inference_set(**spec: Any) -> Object:
    template = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"kaitoflow.io/pod-labels": "tier=1"}},
        "resource": {"instanceType": "Standard_NC24ads_A100_v4"},
        "inference": {"preset": {"name": "qwen2.5-coder-7b-instruct"}},
    }
    return {
        "metadata": {"name": "coder", "namespace": "team", "uid": "set-1", "generation": 1},
        "spec": {"replicas": 3, "template": template} | spec,
    }


def made(asked: Object, *numbers: int, answering: bool = True) -> list[Object]:
    """Members as the API server has them."""
    found = []
    for number in numbers:
        member = copy.deepcopy(member_of(asked, number))
        member["metadata"] |= {"uid": f"uid-{number}", "generation": 1}
        status = {"type": "InferenceReady", "status": "True" if answering else "False"}
        member["status"] = {
            "observedGeneration": 1,
            "conditions": [status | {"reason": "Waits", "message": "for a node"}],
        }
        found.append(member)
    return found


def names(objects: Any) -> list[str]:
    return [each["metadata"]["name"] for each in objects]


def with_another_template(asked: Object) -> Object:
    newer = copy.deepcopy(asked)
    newer["spec"]["template"]["inference"]["preset"]["name"] = "phi-4-mini-instruct"
    return newer


def test_members_are_numbered_workspaces_that_are_read_as_any() -> None:
    asked = inference_set()
    todo = changes(asked, [])
    assert names(todo.have) == ["coder-0", "coder-1", "coder-2"]
    workspace = parse_workspace(dict(todo.have[1]), source="test")
    assert workspace.resource.instance_type == "Standard_NC24ads_A100_v4"
    assert workspace.metadata.labels == {"team": "a", CREATED_BY: "coder"}
    assert pod_labels(workspace) == {"tier": "1", CREATED_BY: "coder"}
    (owner,) = todo.have[1]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("InferenceSet", "set-1", True)


def test_what_is_there_as_asked_is_left_alone() -> None:
    asked = inference_set()
    todo = changes(asked, made(asked, 0, 1, 2))
    assert not todo.have
    assert not todo.surplus


def test_a_gap_is_filled_and_the_highest_go_first() -> None:
    asked = inference_set()
    assert names(changes(asked, made(asked, 0, 2)).have) == ["coder-1"]
    fewer = inference_set(replicas=1)
    assert changes(fewer, made(fewer, 0, 1, 2)).surplus == (
        ("coder-2", "uid-2"),
        ("coder-1", "uid-1"),
    )
    assert not changes(inference_set(replicas=0), []).have


def test_a_new_template_reaches_one_member_after_the_other() -> None:
    asked = inference_set()
    newer = with_another_template(asked)
    members = made(asked, 0, 1, 2)
    todo = changes(newer, members)
    assert names(todo.have) == ["coder-0"]
    assert todo.have[0]["inference"]["preset"]["name"] == "phi-4-mini-instruct"
    starting = [*made(newer, 0, answering=False), *members[1:]]
    assert not changes(newer, starting).have
    started = [*made(newer, 0), *members[1:]]
    assert names(changes(newer, started).have) == ["coder-1"]


def test_members_that_do_not_answer_are_changed_at_once_and_no_other() -> None:
    asked = inference_set()
    broken = [*made(asked, 0), *made(asked, 1, 2, answering=False)]
    assert names(changes(with_another_template(asked), broken).have) == ["coder-1", "coder-2"]


def test_no_member_is_changed_while_one_is_missing() -> None:
    asked = inference_set()
    newer = with_another_template(asked)
    assert names(changes(newer, made(asked, 0, 1)).have) == ["coder-2"]


def rolled_out(asked: Object, members: list[Object]) -> list[tuple[str, ...]]:
    """The members that answer with each step of a rollout, and are asked for all the time."""
    steps = list[tuple[str, ...]]()
    for _ in range(10):
        todo = changes(asked, members)
        if not (todo.have or todo.surplus):
            return steps
        gone = {name for name, _ in todo.surplus}
        changed = {each["metadata"]["name"] for each in todo.have}
        numbers = [int(name.rpartition("-")[2]) for name in changed]
        staying = [each for each in members if each["metadata"]["name"] not in gone | changed]
        steps.append(tuple(names(staying)))
        members = sorted([*staying, *made(asked, *numbers)], key=lambda each: str(names([each])))
    raise AssertionError(steps)


def test_in_a_set_of_one_another_answers_while_it_is_changed() -> None:
    old = inference_set(replicas=1)
    steps = rolled_out(with_another_template(old), made(old, 0))
    assert steps == [("coder-0",), ("coder-1",), ("coder-0",)]


def test_with_a_surge_as_many_as_asked_for_answer_all_the_time() -> None:
    old = inference_set(replicas=2, updateStrategy={"rollingUpdate": {"maxSurge": 1}})
    steps = rolled_out(with_another_template(old), made(old, 0, 1))
    assert [len(step) for step in steps] == [2, 2, 2, 2]
    assert steps[-1] == ("coder-0", "coder-1")


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 1, "updateStrategy": {"rollingUpdate": {"maxSurge": 0}}},
        {"replicas": 1, "nodeCountLimit": 1},
        {"replicas": 2},
    ],
    ids=["not wished for", "no node for it", "another answers"],
)
def test_else_members_are_changed_in_their_places(spec: dict[str, Any]) -> None:
    old = inference_set(**spec)
    [changed] = changes(with_another_template(old), made(old, *range(spec["replicas"]))).have
    assert changed["metadata"]["name"] == "coder-0"


def test_a_surge_that_does_not_answer_keeps_the_old_member_and_says_how_to_do_without() -> None:
    asked = with_another_template(inference_set(replicas=1))
    members = [*made(inference_set(replicas=1), 0), *made(asked, 1, answering=False)]
    assert not changes(asked, members).have
    [told] = status_of_set(asked, members, refusal="", now=NOW)["conditions"]
    assert "coder-1 is made before others are changed" in told["message"]
    assert "maxSurge: 0 changes them in their places" in told["message"]


def test_a_set_of_one_begins_and_scales_without_a_surge() -> None:
    one = inference_set(replicas=1)
    assert names(changes(one, []).have) == ["coder-0"]
    assert changes(one, made(one, 0, 1)).surplus == (("coder-1", "uid-1"),)


def test_what_else_a_rolling_update_says_is_told_to_have_no_effect() -> None:
    asked = inference_set(updateStrategy={"rollingUpdate": {"partition": 1}})
    [told] = status_of_set(asked, made(asked, 0, 1, 2), refusal="", now=NOW)["conditions"]
    assert "no effect here: spec.updateStrategy.rollingUpdate.partition" in told["message"]


def test_an_answer_of_an_older_generation_counts_for_none() -> None:
    asked = inference_set()
    newer = with_another_template(asked)
    members = [*made(newer, 0), *made(asked, 1, 2)]
    members[0]["metadata"]["generation"] = 2
    assert not changes(newer, members).have


@pytest.mark.parametrize(("limit", "count", "members"), [(2, None, 2), (4, 2, 2), (9, 1, 3)])
def test_node_count_limit_bounds_the_members(limit: int, count: int | None, members: int) -> None:
    asked = inference_set(nodeCountLimit=limit)
    if count:
        asked["spec"]["template"]["resource"]["count"] = count
    assert len(changes(asked, []).have) == members


def test_the_service_leads_to_the_pods_of_all_members() -> None:
    service = service_of(inference_set())
    assert service["metadata"]["name"] == "coder"
    assert service["spec"]["selector"] == {CREATED_BY: "coder"}


def test_a_drain_may_take_one_member_at_a_time() -> None:
    spec = budget_of(inference_set())["spec"]
    assert spec == {"maxUnavailable": 1, "selector": {"matchLabels": {CREATED_BY: "coder"}}}


def told(asked: Object, members: list[Object], *, refusal: str = "") -> Object:
    status = status_of_set(asked, members, refusal=refusal, now=NOW)
    assert status["selector"] == f"{CREATED_BY}=coder"
    return status


def test_a_set_is_ready_when_all_answer_with_the_newest_template() -> None:
    asked = inference_set()
    status = told(asked, made(asked, 0, 1, 2))
    (condition,) = status["conditions"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (3, 3, 3)
    assert (condition["status"], condition["message"]) == ("True", "3 of 3 answer")
    (newer,) = told(with_another_template(asked), made(asked, 0, 1, 2))["conditions"]
    assert (newer["status"], newer["reason"]) == ("False", "ReplicasPending")
    assert "0 of them have the newest template" in newer["message"]


@pytest.mark.parametrize(
    ("spec", "answering", "refusal", "reason", "said"),
    [
        ({}, False, "", "ReplicasPending", "coder-0: Waits: for a node"),
        ({}, True, "Workspace coder-1 was refused: why", "MemberRefused", "was refused: why"),
        ({"nodeCountLimit": 2}, True, "", "NodeCountLimit", "raise it, or lower spec.replicas"),
        ({"autoUpgrade": {"enabled": True}}, True, "", "ReplicasReady", "spec.autoUpgrade"),
    ],
)
def test_what_keeps_a_set_from_being_as_asked_is_told(
    spec: dict[str, Any], answering: bool, refusal: str, reason: str, said: str
) -> None:
    asked = inference_set(**spec)
    (condition,) = told(asked, made(asked, 0, 1, 2, answering=answering), refusal=refusal)[
        "conditions"
    ]
    assert condition["reason"] == reason
    assert said in condition["message"]


def test_the_time_of_a_condition_is_that_of_its_last_turn() -> None:
    asked = inference_set()
    asked["status"] = told(asked, made(asked, 0, 1, 2))
    (same,) = status_of_set(asked, made(asked, 0, 1, 2), refusal="", now="later")["conditions"]
    (turned,) = status_of_set(asked, [], refusal="", now="later")["conditions"]
    assert (same["lastTransitionTime"], turned["lastTransitionTime"]) == (NOW, "later")
