"""An object is a Workspace's when the Workspace controls it, whatever its name and labels say."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.errors import InvalidWorkspace, RunSuperseded
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.platform.base import World
from tasks.platform.manifests.naming import object_names
from tasks.platform.manifests.owned import owner_reference
from tasks.platform.ownership import expect_asked, is_in_the_way, is_of
from tests.builders import tuning_manifest

WORLD = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True)


def workspace(name: str = "web", uid: str = "1", **annotations: str) -> Workspace:
    manifest = tuning_manifest(name)
    given = {f"kaito.sh/{key}": value for key, value in annotations.items()}
    manifest["metadata"] |= {"namespace": "team", "uid": uid, "annotations": given}
    return parse_workspace(manifest, source="test")


def owned_by(owner: Workspace, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"ownerReferences": [owner_reference(owner)], **metadata}}


@pytest.mark.parametrize(
    ("found", "is_ours", "is_theirs"),
    [
        ({"metadata": {}}, False, True),
        ({"metadata": {"labels": {"kaito.sh/workspace": "web"}}}, False, True),
        (owned_by(workspace()), True, False),
        (owned_by(workspace("other")), False, True),
        # What an earlier Workspace of the name has left goes by itself.
        (owned_by(workspace(uid="0")), False, False),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, False, False),
    ],
    ids=["nobody's", "labelled", "ours", "another Workspace's", "an earlier one's", "leaving"],
)
def test_who_controls_an_object_has_it(
    found: dict[str, Any], *, is_ours: bool, is_theirs: bool
) -> None:
    assert (is_of(found, workspace()), is_in_the_way(found, workspace())) == (is_ours, is_theirs)


def test_a_workspace_of_a_file_has_what_the_one_of_its_name_has() -> None:
    assert is_of(owned_by(workspace()), workspace(uid=""))
    assert not is_of(owned_by(workspace("other")), workspace(uid=""))


def test_an_owner_that_does_not_control_has_nothing() -> None:
    found = owned_by(workspace())
    found["metadata"]["ownerReferences"][0]["controller"] = False
    assert not is_of(found, workspace())


def test_a_taken_name_is_refused_with_what_to_do() -> None:
    world = replace(WORLD, taken=(("Service", "web"),))
    plan = make_plan(workspace(), world)
    [refusal] = [check for check in plan.refused if check.name == "names"]
    assert refusal.reason == "NameTaken"
    assert "Service web" in refusal.detail
    assert "rename the Workspace" in refusal.fix
    assert "kubectl delete service web -n team" in refusal.fix


def test_names_are_looked_up_for_what_is_made_only() -> None:
    names = object_names(workspace(serve="false"))
    assert names == [("Job", "web-tune-1"), ("ConfigMap", "web-tuning-1")]
    served = {
        *(("Service", "web"), ("Service", "web-headless")),
        *(("StatefulSet", "web"), ("ConfigMap", "web-inference-1")),
    }
    assert {*object_names(workspace())} == {*names} | served


def signed(generation: int = 2, **changes: Any) -> Workspace:
    source = {"urls": ["https://host/a.jsonl?sig=canary"]}
    manifest = tuning_manifest("web", **({"input": source} | changes))
    manifest["metadata"] |= {"uid": "1", "generation": generation}
    return parse_workspace(manifest, source="test")


def test_a_run_that_was_told_no_secrets_gets_the_object_with_them() -> None:
    assert expect_asked(signed(), signed().redacted()) == signed()


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (signed(3), "generation 3 is there by now"),
        (workspace(uid="another"), "it is gone"),
        (None, "it is gone"),
    ],
)
def test_a_run_of_what_is_not_there_any_more_ends(kept: Workspace | None, said: str) -> None:
    with pytest.raises(RunSuperseded, match=f"generation 2 of workspace default/web .*{said}"):
        expect_asked(kept, signed().redacted())


def test_words_that_are_not_the_kept_object_s_are_refused_and_not_left_out() -> None:
    with pytest.raises(InvalidWorkspace, match=r"leave metadata\.uid out of the form"):
        expect_asked(signed(), signed(method="lora").redacted())
