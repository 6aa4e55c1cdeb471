"""Of Workspaces with one output exactly one is told that it is another's."""

import itertools
from typing import Any

import pytest

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.outputs import Rivals, rivals, writer_of
from tests.builders import tuning_manifest

Object = dict[str, Any]
TAG = "registry.example.com/adapters/phi:1"


def manifest(name: str, *, image: str = TAG, claim: str = "") -> Object:
    output: Object = {"image": image, "imagePushSecret": "push"}
    if claim:
        output = {"volumeSource": {"persistentVolumeClaim": {"claimName": claim}}}
    return tuning_manifest(name, output=output)


def workspace(name: str, **output: str) -> Workspace:
    return parse_workspace(manifest(name, **output), source="test")


def kept(
    name: str,
    *,
    namespace: str = "default",
    at: int = 0,
    accepted: str = "",
    made: str = "",
    **output: str,
) -> Object:
    """A Workspace as the API server has it. Args: accepted: True, or the reason why it is not."""
    found = manifest(name, **output)
    created = f"2026-01-01T00:00:{at:02}Z"
    found["metadata"] |= {"namespace": namespace, "creationTimestamp": created}
    status: Object = {}
    if accepted:
        status["conditions"] = [
            {
                "type": "Accepted",
                "status": "True" if accepted == "True" else "False",
                "reason": accepted,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ]
    if made:
        status["image"] = {"reference": made, "digest": "sha256:a", "pushed": True}
    return found | {"status": status}


def owner(name: str, *there: Object, **output: str) -> str:
    return rivals(workspace(name, **output), map(writer_of, there)).image_is_of


def test_of_two_that_come_at_once_the_older_has_the_image() -> None:
    both = [kept("a", at=2), kept("b", at=1)]
    assert (owner("a", *both), owner("b", *both)) == ("b", "")


def test_who_was_accepted_has_the_image_although_it_is_younger() -> None:
    both = [kept("a", at=1), kept("b", at=2, accepted="True")]
    assert (owner("a", *both), owner("b", *both)) == ("b", "")


def test_who_has_made_the_image_keeps_it_while_it_is_planned_anew() -> None:
    both = [kept("a", at=2, made=f"{TAG}"), kept("b", at=1)]
    assert (owner("a", *both), owner("b", *both)) == ("", "a")


def test_an_edit_to_the_image_of_another_is_refused() -> None:
    both = [kept("a", at=1, accepted="True", image="r.example.com/other:1")]
    both += [kept("b", at=2, accepted="True")]
    assert owner("a", *both) == "b"


def test_who_gave_way_holds_up_nobody() -> None:
    both = [kept("a", at=1, accepted="TagTaken"), kept("b", at=2)]
    assert owner("b", *both) == ""


def test_who_was_refused_for_another_reason_has_its_image() -> None:
    both = [kept("a", at=1, accepted="SecretNotFound"), kept("b", at=2)]
    assert owner("b", *both) == "a"


def test_a_file_that_is_not_applied_comes_behind_all() -> None:
    assert owner("new", kept("a")) == "a"


@pytest.mark.parametrize(
    "other",
    [
        kept("b", image="registry.example.com/adapters/phi:2"),
        kept("b", claim="results"),
        {"metadata": {"name": "b"}, "inference": {}},
    ],
    ids=["another tag", "a volume", "not tuned"],
)
def test_who_publishes_elsewhere_is_no_rival(other: Object) -> None:
    assert rivals(workspace("a"), map(writer_of, [kept("a"), other])) == Rivals()


def test_one_image_is_one_however_it_is_spelt() -> None:
    assert owner("b", kept("a", image="ghcr.io/x/phi:latest"), image="ghcr.io/x/phi") == "a"


def test_exactly_one_of_many_is_not_refused() -> None:
    there = [kept(name, at=at) for name, at in zip("abcd", (3, 1, 1, 2), strict=True)]
    for order in itertools.permutations(there):
        assert [name for name in "abcd" if not owner(name, *order)] == ["b"]


def test_an_image_is_one_for_all_namespaces_and_the_other_is_told_with_its_own() -> None:
    elsewhere = kept("a", namespace="team-b", at=1)
    assert owner("a", elsewhere, kept("a", at=2)) == "team-b/a"
    assert owner("a", elsewhere, kept("a", at=0)) == ""


def test_a_claim_of_another_namespace_is_another() -> None:
    there = [kept("a", claim="results"), kept("b", namespace="team-b", claim="results")]
    assert rivals(workspace("a", claim="results"), map(writer_of, there)) == Rivals()


def test_who_writes_to_one_claim_is_told_on_both_sides() -> None:
    both = [kept("a", claim="results"), kept("b", claim="results"), kept("c", claim="others")]
    for name, other in ("ab", "ba"):
        found = rivals(workspace(name, claim="results"), map(writer_of, both))
        assert found == Rivals(claim_is_shared_with=(other,))
