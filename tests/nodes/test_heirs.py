"""Who takes over a node that is given back: who runs on it, and has none of its own."""

from typing import Any

from tasks.nodes.claims.heirs import heirs


def workspace(uid: str, *nodes: str, count: int = 1) -> dict[str, Any]:
    metadata = {"name": f"w-{uid}", "namespace": "team", "uid": uid}
    status = {"state": "Running", "workerNodes": [*nodes]}
    return {"metadata": metadata, "resource": {"count": count}, "status": status}


def claim(uid: str, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"annotations": {"kaitoflow.io/workspace-uid": uid}, **meta}}


def test_who_runs_on_a_node_inherits_it() -> None:
    found = heirs([workspace("1", "gpu"), workspace("2", "gpu")], but_uid="1")
    assert {node: heir.uid for node, heir in found.items()} == {"gpu": "2"}


def test_who_has_a_node_of_its_own_inherits_none() -> None:
    assert heirs([workspace("2", "gpu")], claims=[claim("2")]) == {}


def test_who_needs_more_nodes_than_it_has_inherits_one() -> None:
    assert "gpu" in heirs([workspace("2", "gpu", count=2)], claims=[claim("2")])


def test_a_claim_that_was_given_back_is_no_node_of_ones_own() -> None:
    leaving = claim("2", deletionTimestamp="2026-01-01T00:00:00Z")
    assert "gpu" in heirs([workspace("2", "gpu")], claims=[leaving])
