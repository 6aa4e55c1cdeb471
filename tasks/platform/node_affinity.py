"""Which nodes a Workspace's pods may run on, as the scheduler is told. Pure.

Where nodes are made, each is one Workspace's: its pods run there, or on nodes that were made for
nobody. Where they are brought, the labels decide, and who shares them is the user's to say.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from tasks.contract.resource_rules import is_reserved_label
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.platform.wire import Object, Seen

# On nodes that are made: for which Workspace.
OWNER_LABEL, OWNER_NAMESPACE_LABEL = "kaito.sh/workspace", "kaito.sh/workspacenamespace"

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def owner_labels(meta: ObjectMeta) -> dict[str, str]:
    """The labels of a node that was made for the Workspace."""
    return {OWNER_LABEL: meta.name, OWNER_NAMESPACE_LABEL: meta.namespace}


def is_made_for(labels: Mapping[str, str], meta: ObjectMeta) -> bool:
    """Whether a node with these labels was made for the Workspace."""
    return owner_labels(meta).items() <= labels.items()


def node_affinity(workspace: Workspace, given: Seen, *, are_nodes_made: bool) -> Object:
    """The pod's affinity: what is given of a pod template's own, and the Workspace's nodes.

    Args: are_nodes_made: whether the installation has nodes made for Workspaces.
    """
    ours = _terms(workspace, are_nodes_made=are_nodes_made)
    if not ours:
        return dict(given)
    nodes = dict(given.get("nodeAffinity") or {})
    theirs = (nodes.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    terms = [
        {
            **each,
            "matchExpressions": [*(each.get("matchExpressions") or ()), *wanted],
        }
        for each, wanted in itertools.product(theirs, ours)
    ]
    return {**given, "nodeAffinity": {**nodes, _REQUIRED: {"nodeSelectorTerms": terms}}}


def _terms(workspace: Workspace, *, are_nodes_made: bool) -> list[list[Object]]:
    """Each what a node must be, of which one is enough; empty = any node will do."""
    wanted = _selected(workspace)
    if not are_nodes_made:
        return [wanted] if wanted else []
    made_for_it = [_is(key, value) for key, value in owner_labels(workspace.metadata).items()]
    made_for_nobody = {"key": OWNER_LABEL, "operator": "DoesNotExist"}
    return [[*wanted, *made_for_it], *([[*wanted, made_for_nobody]] if wanted else [])]


def _selected(workspace: Workspace) -> list[Object]:
    """What the labelSelector asks of a node."""
    selector = workspace.resource.label_selector
    wanted = [
        _is(key, value)
        for key, value in sorted(selector.match_labels.items())
        if not is_reserved_label(key)
    ]
    return wanted + [
        {
            "key": each["key"],
            "operator": each["operator"],
            **({"values": each["values"]} if each.get("values") else {}),
        }
        for each in selector.match_expressions
        if not is_reserved_label(each["key"])
    ]


def _is(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": [value]}
