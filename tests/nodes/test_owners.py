"""A node that was made for a Workspace is used by nobody else, not even for a moment."""

from typing import Any

import pytest

from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.owners import open_nodes, own_nodes
from tasks.platform.node_affinity import owner_labels

MINE = ObjectMeta(name="mine", namespace="team", uid="1")
NAMESAKE = ObjectMeta(name="mine", namespace="other", uid="2")
Object = dict[str, Any]


def node(name: str = "gpu-1", *, made_for: ObjectMeta | None = None) -> Object:
    return {"metadata": {"name": name, "labels": owner_labels(made_for) if made_for else None}}


def claim(uid: str, node: str = "gpu-1", **meta: Any) -> Object:
    metadata = {"annotations": {"kaitoflow.io/workspace-uid": uid}, **meta}
    return {"metadata": metadata, "status": {"nodeName": node} if node else {}}


LEAVING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("found", "claims", "is_open"),
    [
        (node(), [], True),
        (node(), [claim("2", "gpu-2"), claim("2", "")], True),
        (node(), [claim("1")], True),
        (node(), [claim("2")], False),
        (node(), [claim("1", **LEAVING)], False),
        (node(made_for=MINE), [], True),
        (node(made_for=MINE), [claim("2")], False),
        (node(made_for=NAMESAKE), [], False),
        (node(made_for=NAMESAKE), [claim("1")], False),
    ],
    ids=[
        *("nobody's", "others have others", "its own claim's", "another's claim's", "given back"),
        *("made for it", "handed over", "made for a namesake", "made for another"),
    ],
)
def test_a_workspace_takes_nodes_of_its_own_claims_and_of_nobody_s(
    found: Object, claims: list[Object], is_open: bool
) -> None:
    assert open_nodes([found], claims, MINE) == ([found] if is_open else [])


def test_its_own_are_those_that_say_that_they_were_made_for_it() -> None:
    nodes = [node("a"), node("b", made_for=MINE), node("c", made_for=NAMESAKE)]
    assert own_nodes(nodes, MINE) == {"b"}
