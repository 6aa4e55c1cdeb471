"""What its image tells of an adapter, for a Workspace whose status was lost. Pure."""

import json
import re
from collections.abc import Mapping

from tasks.contract.adapter_history import FIRST, AdapterRecord, candidate_image
from tasks.contract.artifacts import PublishedImage
from tasks.contract.image_annotations import (
    CREATED,
    DATASET_DIGEST,
    HELD_OUT,
    TRAINING,
    WORKSPACE_UID,
)
from tasks.contract.image_reference import parse_push_reference
from tasks.contract.programs.tuning import HeldOut
from tasks.contract.redaction import harmless

# As candidates are tagged, and as short as their numbers are: a registry may say anything.
_CANDIDATE = re.compile(r"-g([1-9][0-9]{0,8})")


def number_of(image: str, tag: str) -> int | None:
    """The number of the adapter that a tag names; None = none. Args: image: the Workspace's own."""
    own = parse_push_reference(image).target
    if tag == own:
        return FIRST
    found = _CANDIDATE.fullmatch(tag.removeprefix(own)) if tag.startswith(own) else None
    number = int(found[1]) if found else FIRST
    return number if number != FIRST else None


def found_adapter(
    image: str, number: int, digest: str, annotations: Mapping[str, str], *, uid: str
) -> AdapterRecord | None:
    """The adapter in an image, as far as its annotations tell; None = another Workspace made it.

    Args: image: the Workspace's own. uid: of the Workspace.
    """
    if not uid or annotations.get(WORKSPACE_UID) != uid:
        return None
    own = str(parse_push_reference(image))
    name = own if number == FIRST else candidate_image(own, number)
    return AdapterRecord(
        number=number,
        image=PublishedImage(reference=name, digest=digest, pushed=True),
        training=annotations.get(TRAINING, ""),
        data=annotations.get(DATASET_DIGEST, ""),
        held_out=_held_out(annotations.get(HELD_OUT, "")),
        tuned=harmless(annotations.get(CREATED, "")),
    )


def _held_out(text: str) -> HeldOut | None:
    try:
        told = json.loads(text)
        return HeldOut(
            rows=int(told["rows"]),
            loss_before=float(told["loss_before"]),
            loss_after=float(told["loss_after"]),
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
