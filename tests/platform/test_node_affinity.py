"""Pods go to nodes of their own Workspace, or of nobody; where nodes are brought, labels decide."""

from typing import Any

import pytest

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.node_affinity import node_affinity, owner_labels
from tests.builders import tuning_manifest

Object = dict[str, Any]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
APPS = {"matchLabels": {"apps": "phi-3"}}


def workspace(selector: Object | None = None) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"] |= {"namespace": "team"}
    manifest["resource"] = {"labelSelector": selector or {}}
    return parse_workspace(manifest, source="test")


def terms(affinity: Object) -> list[list[str]]:
    """Each term's keys, those that must not be there with an exclamation mark."""
    found = affinity["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    return [
        [
            "!" * (each["operator"] == "DoesNotExist") + each["key"]
            for each in term["matchExpressions"]
        ]
        for term in found
    ]


OWN = ["kaito.sh/workspace", "kaito.sh/workspacenamespace"]


@pytest.mark.parametrize(
    ("selector", "are_nodes_made", "wanted"),
    [
        (APPS, False, [["apps"]]),
        (APPS, True, [["apps", *OWN], ["apps", "!kaito.sh/workspace"]]),
        ({}, True, [OWN]),
    ],
    ids=["brought", "made", "made without a selector"],
)
def test_where_pods_may_go(
    selector: Object, wanted: list[list[str]], *, are_nodes_made: bool
) -> None:
    affinity = node_affinity(workspace(selector), {}, are_nodes_made=are_nodes_made)
    assert terms(affinity) == wanted


def test_without_a_selector_any_node_that_is_brought_will_do() -> None:
    assert node_affinity(workspace(), {}, are_nodes_made=False) == {}


def test_a_node_that_is_made_is_told_by_name_and_namespace() -> None:
    meta = workspace().metadata
    assert owner_labels(meta) == dict(zip(OWN, ["tuned", "team"], strict=True))


def test_what_a_template_asks_of_nodes_itself_is_asked_too() -> None:
    zones = [{"matchExpressions": [{"key": z, "operator": "Exists"}]} for z in "ab"]
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    given = {
        "podAffinity": {"x": 1},
        "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": zones}, **preferred},
    }
    affinity = node_affinity(workspace(APPS), given, are_nodes_made=False)
    assert terms(affinity) == [["a", "apps"], ["b", "apps"]]
    assert affinity["podAffinity"] == {"x": 1}
    assert preferred.items() <= affinity["nodeAffinity"].items()


def test_names_of_nodes_that_a_template_gives_are_kept() -> None:
    fields = [{"key": "metadata.name", "operator": "In", "values": ["n"]}]
    given = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchFields": fields}]}}}
    affinity = node_affinity(workspace(APPS), given, are_nodes_made=False)
    [term] = affinity["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert term["matchFields"] == fields
