"""Whose an object of the cluster is: one that is not a Workspace's own stays as it is. Pure."""

from tasks.contract.errors import NameTaken
from tasks.contract.workspace import Workspace
from tasks.platform.wire import Seen


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


def name_taken(kind: str, name: str, workspace: Workspace) -> NameTaken:
    """What a person is told whose Workspace would have changed an object of somebody else."""
    meta = workspace.metadata
    return NameTaken(
        f"{kind} {name} was to be made for workspace {workspace}",
        "there is one of that name that is not this Workspace's, and it stays as it is",
        f"rename the Workspace, or delete it: `kubectl delete {kind.lower()} {name} -n "
        f"{meta.namespace}`",
    )


def _controller(each: Seen) -> Seen:
    owners = each["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})
