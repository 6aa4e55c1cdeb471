"""What a soak expects of a Workspace, without any cluster."""

import random

import pytest

from tasks.contract.workspace import FINALIZER
from tests.flows.soak.subjects import (
    Act,
    Seen,
    Subject,
    after,
    differences,
    drawn,
    healed,
    possible,
)

SUBJECT = Subject(namespace="soak-1")


def test_the_same_seed_draws_the_same_acts() -> None:
    subjects = [SUBJECT, Subject(namespace="soak-2")]
    first, second = random.Random(7), random.Random(7)
    assert [drawn(first, subjects) for _ in range(50)] == [
        drawn(second, subjects) for _ in range(50)
    ]


def test_every_act_is_drawn_sooner_or_later() -> None:
    chance, subject, acts = random.Random(1), SUBJECT, set()
    for _ in range(2000):
        _, act = drawn(chance, [subject])
        subject = after(subject, act, is_settled=True)
        acts.add(act)
    assert acts == set(Act)


def test_what_is_gone_can_only_be_applied_anew_or_lose_its_secret() -> None:
    gone = after(SUBJECT, Act.DELETE, is_settled=True)
    assert possible(gone) == [Act.RECREATE, Act.TAKE_SECRET]


@pytest.mark.parametrize("act", [Act.TOUCH, Act.REVERT, Act.DELETE_OBJECT, Act.STOP, Act.START])
def test_what_changes_no_training_allows_no_push_of_a_settled_workspace(act: Act) -> None:
    assert after(SUBJECT, act, is_settled=True).trainings == SUBJECT.trainings


def test_an_edit_allows_one_push_more() -> None:
    assert after(SUBJECT, Act.EDIT, is_settled=True).trainings == SUBJECT.trainings + 1


def test_a_healed_subject_is_not_disturbed() -> None:
    subject = SUBJECT
    for act in (Act.REFUSE, Act.TAKE_SECRET, Act.STOP, Act.DELETE):
        subject = after(subject, act, is_settled=False)
    assert subject.is_disturbed
    assert not healed(subject).is_disturbed


def test_one_that_was_deleted_is_trained_once_more_where_it_is_healed() -> None:
    gone = after(SUBJECT, Act.DELETE, is_settled=True)
    assert healed(gone).trainings == after(gone, Act.RECREATE, is_settled=True).trainings
    assert healed(SUBJECT).trainings == SUBJECT.trainings


def served(**changes: object) -> Seen:
    condition = {"type": "InferenceReady", "status": "True", "reason": "", "observedGeneration": 1}
    workspace = {
        "metadata": {"generation": 1, "finalizers": [FINALIZER]},
        "status": {"state": "Ready", "observedGeneration": 1, "conditions": [condition]},
    }
    seen = {
        "workspace": workspace,
        "objects": ("ConfigMap", "Service", "Service", "StatefulSet"),
        "claims": 1,
        "pushes": 1,
        "most_pushes_at_once": 1,
    }
    return Seen(**(seen | changes))  # type: ignore[arg-type]


def test_a_served_workspace_with_all_its_objects_is_as_asked() -> None:
    assert differences(SUBJECT, served()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workspace": None}, "it is not there"),
        ({"objects": ("ConfigMap", "Service", "StatefulSet")}, "no Service"),
        ({"claims": 2}, "it holds 2 claims, and needs one"),
        ({"pushes": 2}, "2 pushes of at most 1"),
        ({"most_pushes_at_once": 2}, "2 pods pushed to one tag at once"),
    ],
)
def test_what_is_not_as_asked_is_told(changes: dict[str, object], said: str) -> None:
    assert said in differences(SUBJECT, served(**changes))


def test_what_is_left_of_a_deleted_workspace_is_told() -> None:
    gone = after(SUBJECT, Act.DELETE, is_settled=True)
    left = Seen(objects=("Service",), claims=1, pushes=1)
    assert differences(gone, left) == ["left behind: Service, NodeClaim"]
    assert differences(gone, Seen(pushes=1)) == []


def test_a_stopped_workspace_keeps_neither_claim_nor_server() -> None:
    stopped = after(SUBJECT, Act.STOP, is_settled=True)
    found = differences(stopped, served())
    assert "it is Ready, and is to be stopped" in found
    assert "stopped, it holds 1 claims" in found
    assert "stopped, it has a StatefulSet" in found


def test_a_refusal_that_is_not_told_is_noticed() -> None:
    refused = after(SUBJECT, Act.REFUSE, is_settled=True)
    assert any("its refusal is not told" in each for each in differences(refused, served()))


def test_what_served_before_a_refused_edit_serves_on_unless_it_was_harmed() -> None:
    refused = after(SUBJECT, Act.REFUSE, is_settled=True)
    harmed = after(refused, Act.LOSE_NODE, is_settled=False)
    seen = served(claims=0)
    assert seen.workspace
    accepted = {"type": "Accepted", "status": "False", "reason": "", "observedGeneration": 1}
    seen.workspace["status"]["conditions"].append(accepted)
    assert "it holds 0 claims, and needs one" in differences(refused, seen)
    gone = {"status": "False", "reason": "NodeLost", "message": "its node is gone"}
    seen.workspace["status"]["conditions"][0] |= gone
    assert "it does not serve" in differences(refused, seen)
    assert differences(harmed, seen) == []
