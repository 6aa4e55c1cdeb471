"""What a Workspace hands on to its pods and to what makes them, for a cluster's own manners. Pure.

Kueue goes by labels of the Job and the StatefulSet: it suspends the one and puts a gate on the
other's pods until the queue has room.
"""

import re

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import Workspace

PRIORITY_CLASS_ANNOTATION = "kaitoflow.io/priority-class"
RUNTIME_CLASS_ANNOTATION = "kaitoflow.io/runtime-class"
POD_LABELS_ANNOTATION = "kaitoflow.io/pod-labels"
POD_ANNOTATIONS_ANNOTATION = "kaitoflow.io/pod-annotations"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_QUEUE_LABELS = (QUEUE_LABEL, "kueue.x-k8s.io/priority-class")

_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?{_WORD}")
_LABEL_VALUE = re.compile(rf"({_WORD})?")


def queue_of(workspace: Workspace) -> str:
    """The queue that decides when its pods may start; "" = they start when there is room."""
    return workspace.metadata.labels.get(QUEUE_LABEL, "")


def queue_labels(workspace: Workspace) -> dict[str, str]:
    """What a queue goes by, as it stands on the Workspace."""
    labels = workspace.metadata.labels
    return {name: labels[name] for name in _QUEUE_LABELS if name in labels}


def pod_labels(workspace: Workspace) -> dict[str, str]:
    """The labels that the Workspace wants its pods to have.

    Raises: InvalidWorkspace: they are no labels.
    """
    pairs = _pairs(workspace, POD_LABELS_ANNOTATION)
    for key, value in pairs.items():
        if not _LABEL_VALUE.fullmatch(value):
            raise _no_pair(POD_LABELS_ANNOTATION, f"{key}={value}")
    return pairs


def pod_annotations(workspace: Workspace) -> dict[str, str]:
    """The annotations that the Workspace wants its pods to have.

    Raises: InvalidWorkspace: they are no annotations.
    """
    return _pairs(workspace, POD_ANNOTATIONS_ANNOTATION)


def _pairs(workspace: Workspace, annotation: str) -> dict[str, str]:
    text, pairs = workspace.metadata.annotations.get(annotation, ""), {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, is_pair, value = part.partition("=")
        if not is_pair or not _KEY.fullmatch(key):
            raise _no_pair(annotation, part)
        pairs[key] = value
    return pairs


def _no_pair(annotation: str, part: str) -> InvalidWorkspace:
    return InvalidWorkspace(
        f"annotation {annotation} asks for {part!r}",
        "that is no name and value as Kubernetes takes them",
        'write it as kubectl does, such as "team=ml,cost-centre=42"',
    )
