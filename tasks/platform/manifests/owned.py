"""Objects that are a Workspace's own: it owns them, and they carry its labels."""

from typing import Any

from tasks.contract.workspace import Workspace
from tasks.platform.manifests.labels import GENERATION_LABEL, workspace_labels
from tasks.platform.wire import Object


def owned_object(
    version: str, kind: str, workspace: Workspace, name: str, **content: Any
) -> Object:
    """An object of the Workspace's generation, with what else it says beside its metadata."""
    metadata = {
        "name": name,
        "namespace": workspace.metadata.namespace,
        "labels": workspace_labels(workspace)
        | {GENERATION_LABEL: str(workspace.metadata.generation)},
        "ownerReferences": [owner_reference(workspace)],
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def owner_reference(workspace: Workspace) -> Object:
    """Objects with this go when the Workspace goes."""
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "name": workspace.metadata.name,
        "uid": workspace.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
