"""Whose a node is that a claim has become: it is used by nobody else. Pure."""

from collections.abc import Sequence

from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.ledger import owner_uid
from tasks.nodes.claims.node_claim import is_leaving, node_name_of
from tasks.platform.node_affinity import OWNER_LABEL, is_made_for
from tasks.platform.wire import Seen, name_of


def open_nodes(nodes: Sequence[Seen], claims: Sequence[Seen], meta: ObjectMeta) -> list[Seen]:
    """The nodes that a Workspace may take: of its own claims, and of nobody's.

    A node says whom it was made for before its claim says which node it is. One that was handed
    over keeps its label: the pods that are there may stay, and none may come.
    """
    taken = {
        node_name_of(each) for each in claims if owner_uid(each) != meta.uid or is_leaving(each)
    }
    return [
        node
        for node in nodes
        if name_of(node) not in taken
        and (OWNER_LABEL not in _labels(node) or is_made_for(_labels(node), meta))
    ]


def own_nodes(nodes: Sequence[Seen], meta: ObjectMeta) -> set[str]:
    """The names of those of the nodes that were made for the Workspace."""
    return {name_of(node) for node in nodes if is_made_for(_labels(node), meta)}


def _labels(node: Seen) -> dict[str, str]:
    return node["metadata"].get("labels") or {}
