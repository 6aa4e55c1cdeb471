"""Which Workspaces need the node that another of them had made. Pure.

A node is one Workspace's; only pods of earlier versions of ours are on nodes of others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from tasks.contract.status import status_of
from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.ledger import owner_uid
from tasks.nodes.claims.node_claim import is_leaving
from tasks.platform.node_affinity import OWNER_LABEL, is_made_for
from tasks.platform.wire import Seen


def has_ended(workspace: Seen) -> bool:
    """Whether its last run has ended and kept no node, and no newer generation is to be run."""
    status = status_of(workspace)
    is_current = status.observed_generation == workspace["metadata"].get("generation")
    return is_current and not status.keeps_nodes


def living(workspaces: Sequence[Seen]) -> list[Seen]:
    """Those that run, serve or wait for a node."""
    return [
        each
        for each in workspaces
        if "deletionTimestamp" not in each["metadata"] and not has_ended(each)
    ]


def heirs(
    workspaces: Sequence[Seen], *, but_uid: str = "", claims: Sequence[Seen] = ()
) -> dict[str, ObjectMeta]:
    """Living Workspaces by the nodes that they run on.

    Args:
        but_uid: of the Workspace that needs its nodes no more.
        claims: those that there are: who has as many of its own as it needs takes no other.
    """
    own = Counter(owner_uid(claim) for claim in claims if not is_leaving(claim))
    return {
        node: ObjectMeta.model_validate(each["metadata"])
        for each in living(workspaces)
        if (uid := each["metadata"]["uid"]) != but_uid and own[uid] < _nodes_needed(each)
        for node in (each.get("status") or {}).get("workerNodes") or ()
    }


def _nodes_needed(workspace: Seen) -> int:
    return int((workspace.get("resource") or {}).get("count") or 1)


def is_awaited(node: Seen, workspaces: Sequence[Seen]) -> bool:
    """Whether a living Workspace that has no node yet would take one that no claim says it is."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    return any(
        _would_take(each, labels)
        for each in living(workspaces)
        if not (each.get("status") or {}).get("workerNodes")
    )


def _would_take(workspace: Seen, labels: Mapping[str, str]) -> bool:
    if OWNER_LABEL in labels:
        return is_made_for(labels, ObjectMeta.model_validate(workspace["metadata"]))
    selector = (workspace.get("resource") or {}).get("labelSelector") or {}
    named: Mapping[str, str] = selector.get("matchLabels") or {}
    return bool(named) and named.items() <= labels.items()
