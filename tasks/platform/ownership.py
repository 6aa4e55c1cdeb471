"""Whose an object of the cluster is: one that is not a Workspace's own stays as it is. Pure."""

import hashlib
import json

from tasks.contract.errors import InvalidWorkspace, NameTaken, RunSuperseded
from tasks.contract.workspace import Workspace
from tasks.platform.wire import FIELD_MANAGER, Seen


def controller_uid(each: Seen) -> str:
    """The uid of the object that controls this one; empty when none does."""
    return str(_controller(each).get("uid", ""))


def is_of(each: Seen, workspace: Workspace) -> bool:
    """Whether the Workspace controls the object.

    A Workspace that was read from a file has no uid yet: then the one of its name is meant.
    """
    if not is_of_the_name(each, workspace):
        return False
    return not workspace.metadata.uid or controller_uid(each) == workspace.metadata.uid


def is_of_the_name(each: Seen, workspace: Workspace) -> bool:
    """Whether this Workspace, or an earlier one of its name, controls the object.

    What an earlier one has left goes by itself: its owner is gone.
    """
    owner = _controller(each)
    return (owner.get("kind"), owner.get("name")) == ("Workspace", workspace.metadata.name)


def is_in_the_way(each: Seen | None, workspace: Workspace) -> bool:
    """Whether an object that has the name of one to be made is somebody else's, and stays."""
    if each is None or is_of_the_name(each, workspace):
        return False
    return "deletionTimestamp" not in each["metadata"]


def fields_digest(each: Seen) -> str:
    """A digest of the fields that are ours in an object that we have applied.

    The API server keeps whose a field is. One that somebody else changes or removes is ours no
    more; what it adds itself, in this version or in a later one, never was.
    """
    ours = [
        entry.get("fieldsV1")
        for entry in each["metadata"].get("managedFields") or ()
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
    ]
    text = json.dumps(ours, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def name_taken(kind: str, name: str, workspace: Workspace) -> NameTaken:
    """What a person is told whose Workspace would have changed an object of somebody else."""
    meta = workspace.metadata
    return NameTaken(
        f"{kind} {name} was to be made for workspace {workspace}",
        "there is one of that name that is not this Workspace's, and it stays as it is",
        f"rename the Workspace, or delete it: `kubectl delete {kind.lower()} {name} -n "
        f"{meta.namespace}`",
    )


def expect_asked(kept: Workspace | None, asked: Workspace) -> Workspace:
    """The Workspace as it is kept, which a run was started for with its secrets left out.

    Raises: RunSuperseded: it is gone, or of another generation. InvalidWorkspace: the run was
        started with other words, as from a form in which they were changed.
    """
    meta, now = asked.metadata, kept and kept.metadata
    if not (kept and now and (now.uid, now.generation) == (meta.uid, meta.generation)):
        raise superseded(asked, now.generation if now and now.uid == meta.uid else None)
    if _words(kept) != _words(asked):
        raise InvalidWorkspace(
            f"a run of generation {meta.generation} of workspace {asked} was asked for",
            "its words are not those of that generation",
            "apply the change, or leave metadata.uid out of the form to have it applied",
        )
    return kept


def _words(workspace: Workspace) -> dict[str, object]:
    return workspace.redacted().model_dump(exclude={"metadata", "api_version"})


def superseded(workspace: Workspace, generation: int | None) -> RunSuperseded:
    """What ends a run whose Workspace is of this generation now; None = it is gone."""
    there = "it is gone" if generation is None else f"generation {generation} is there by now"
    return RunSuperseded(
        f"generation {workspace.metadata.generation} of workspace {workspace} was to be run",
        there,
        "nothing to do: the newest generation has a run of its own",
    )


def _controller(each: Seen) -> Seen:
    owners = each["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})
