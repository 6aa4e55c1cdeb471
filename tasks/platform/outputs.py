"""Which other Workspaces write where one is to write: one image, or one volume claim. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.contract.errors import ImageReferenceInvalid
from tasks.contract.image_reference import parse_reference
from tasks.contract.status import ConditionType, WorkspaceStatus, status_of
from tasks.contract.workspace import Workspace
from tasks.platform.wire import Seen, name_of

_TAG_TAKEN = "TagTaken"
_NOT_YET = "~"  # of one that is not applied: behind every moment


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A Workspace, as far as it matters for what it writes to.

    image, claim: what its adapter goes to, in full; empty = not to one.
    has_image: whether its image is its own already: it was accepted with it, or has made it.
    gave_way: whether it was refused, since the image is another's.
    """

    namespace: str
    name: str
    created: str
    image: str = ""
    claim: str = ""
    has_image: bool = False
    gave_way: bool = False


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Names of other Workspaces: whose the image is already, and who else writes to the claim.

    One of another namespace has that before its name.
    """

    image_is_of: str = ""
    claim_is_shared_with: tuple[str, ...] = ()


def writer(workspace: Workspace, status: WorkspaceStatus, *, created: str) -> Writer:
    """A Workspace that was read."""
    output = workspace.tuning.output if workspace.tuning else None
    return _writer(
        workspace.metadata.namespace,
        workspace.metadata.name,
        status,
        created=created,
        image=(output.image if output else None) or "",
        volume=(output.volume_source if output else None) or {},
    )


def writer_of(found: Seen) -> Writer:
    """A Workspace as the API server has it; it is not read whole, since there may be hundreds."""
    output: Seen = (found.get("tuning") or {}).get("output") or {}
    return _writer(
        str(found["metadata"].get("namespace", "")),
        name_of(found),
        status_of(found),
        created=str(found["metadata"].get("creationTimestamp", "")),
        image=output.get("image") or "",
        volume=output.get("volumeSource") or {},
    )


def _writer(
    namespace: str,
    name: str,
    status: WorkspaceStatus,
    *,
    created: str,
    image: str,
    volume: Mapping[str, Any],
) -> Writer:
    accepted = status.condition(ConditionType.ACCEPTED)
    reference = _in_full(image)
    has_made_it = status.image is not None and _in_full(status.image.reference) == reference
    return Writer(
        namespace=namespace,
        name=name,
        created=created,
        image=reference,
        claim=str((volume.get("persistentVolumeClaim") or {}).get("claimName", "")),
        has_image=has_made_it or status.is_true(ConditionType.ACCEPTED),
        gave_way=accepted is not None and accepted.reason == _TAG_TAKEN,
    )


def rivals(workspace: Workspace, writers: Iterable[Writer]) -> Rivals:
    """Who else writes to what the Workspace writes to.

    An image is whose it is already, else that of the older Workspace; so of two that come at once
    exactly one gives way. A registry knows no namespaces, and a volume claim is in one.
    Args: writers: every Workspace that may be seen, this one too.
    """
    meta = workspace.metadata
    by_name = {(each.namespace, each.name): each for each in writers}
    kept = by_name.pop((meta.namespace, meta.name), None)
    mine = writer(workspace, WorkspaceStatus(), created=kept.created if kept else _NOT_YET)
    if kept and kept.image == mine.image:
        mine = kept
    before = [
        each
        for each in by_name.values()
        if mine.image and each.image == mine.image and not each.gave_way
        if _order(each) < _order(mine)
    ]
    beside = [each for each in by_name.values() if each.namespace == meta.namespace]
    return Rivals(
        image_is_of=_told(min(before, key=_order), meta.namespace) if before else "",
        claim_is_shared_with=tuple(
            sorted(each.name for each in beside if mine.claim and each.claim == mine.claim)
        ),
    )


def _order(each: Writer) -> tuple[bool, str, str, str]:
    return (not each.has_image, each.created, each.namespace, each.name)


def _told(other: Writer, namespace: str) -> str:
    return other.name if other.namespace == namespace else f"{other.namespace}/{other.name}"


def _in_full(image: str) -> str:
    """One spelling of an image's name: with its registry and tag."""
    try:
        return str(parse_reference(image)) if image else ""
    except ImageReferenceInvalid:
        return image
