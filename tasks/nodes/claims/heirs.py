"""Which Workspaces need the node that one of them had made. Pure.

Several may select one label, and share what it finds; the last of them gives it back.
"""

from collections.abc import Mapping, Sequence

from tasks.contract.status import status_of
from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.node_claim import NAMESPACE_LABEL, WORKSPACE_LABEL
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


def heirs(workspaces: Sequence[Seen], *, but_uid: str = "") -> dict[str, ObjectMeta]:
    """Living Workspaces by the nodes that they run on.

    Args: but_uid: of the Workspace that needs its nodes no more.
    """
    return {
        node: ObjectMeta.model_validate(each["metadata"])
        for each in living(workspaces)
        if each["metadata"]["uid"] != but_uid
        for node in (each.get("status") or {}).get("workerNodes") or ()
    }


def is_awaited(node: Seen, workspaces: Sequence[Seen]) -> bool:
    """Whether a living Workspace that has no node yet would take this one, by its labels."""
    labels = (node["metadata"].get("labels") or {}).items()
    return any(
        _wanted_labels(each).items() <= labels
        for each in living(workspaces)
        if not (each.get("status") or {}).get("workerNodes")
    )


def _wanted_labels(workspace: Seen) -> Mapping[str, str]:
    """The labels by which `ensure_nodes` looks: the selector's, else the name's."""
    meta = workspace["metadata"]
    selector = (workspace.get("resource") or {}).get("labelSelector") or {}
    named: Mapping[str, str] = selector.get("matchLabels") or {}
    return named or {WORKSPACE_LABEL: meta["name"], NAMESPACE_LABEL: meta["namespace"]}
