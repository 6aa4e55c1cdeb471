"""The image that is published, whether it may be, and the Secrets that are named. Pure."""

from tasks.contract.artifacts import Check
from tasks.contract.errors import (
    AddressForbidden,
    InvalidWorkspace,
    KaitoflowError,
    SecretNotFound,
    TagTaken,
)
from tasks.contract.image_reference import parse_reference
from tasks.contract.workspace import Workspace
from tasks.plan.check import not_seen, not_told
from tasks.plan.findings import Findings
from tasks.plan.needs import ALL, Needs
from tasks.platform.base import World

_NAME = "image"
_HOLDS = (
    " and, while it is refused, holds its node's GPUs for KAITOFLOW_PUSH_DENIED_PATIENCE_S, "
    "by default an hour"
)


def image(workspace: Workspace, world: World, findings: Findings) -> Check | str:
    """The image's name in full, and whether its registry takes it.

    Raises: InvalidWorkspace, ImageReferenceInvalid, TagTaken.
    """
    assert workspace.tuning
    output = workspace.tuning.output
    if not output.image and world.is_cluster:
        return _volume(world)
    if not output.image:
        raise InvalidWorkspace(
            "tuning.output.volumeSource was asked for",
            "this machine has no volumes of a cluster",
            "give tuning.output.image, which the local platform keeps on disk",
        )
    reference = parse_reference(output.image)
    if other := world.rivals.image_is_of:
        raise TagTaken(
            f"{reference} is to be made by workspace {workspace}",
            f"workspace {other} makes it, and each would overwrite the other's",
            f"name another tag, or delete workspace {other}",
        )
    if not world.push:
        return f"{reference} (kept on disk; --push sends it to the registry)"
    detail = f"{reference}, pushed with {output.image_push_secret}"
    found = findings.may_push
    if isinstance(found, AddressForbidden):
        fix = "see that the Secret's user may push there: the pod tries it after the training"
        if findings.makes_nodes:
            fix += _HOLDS
        return not_seen(_NAME, found, before=detail, fix=fix)
    if isinstance(found, KaitoflowError):
        return not_told(_NAME, found, before=detail)
    return f"{detail}, proved by an upload that was begun and given up" if found else detail


def _volume(world: World) -> Check | str:
    detail = "kept in the volume (output.volumeSource)"
    if not world.rivals.claim_is_shared_with:
        return detail
    others = ", ".join(world.rivals.claim_is_shared_with)
    return Check(
        name=_NAME,
        result="warn",
        detail=f"{detail}, to whose claim {others} writes too",
        fix="give each a claim of its own: what is tuned last is what is left",
    )


def secrets(workspace: Workspace, world: World, needed: Needs = ALL) -> Check | str:
    """The Secrets' names, and which of them the run does without.

    Raises: SecretNotFound: of the first that is not there and is needed.
    """
    names = workspace.secret_names
    absent = [name for name in names if not world.has_secret(name)]
    if not absent:
        return ", ".join(names)
    if not (world.is_cluster or world.push or workspace.inference):
        return f"{', '.join(names)} (used with --push)"
    missing = [name for name in absent if ("Secret", name) in needed]
    if not missing:
        return Check(
            name="secrets",
            result="warn",
            detail=f"{', '.join(absent)}: not there, and needed by the next tuning alone, or where "
            "the registry asks who pulls",
            fix="make them again (kubectl create secret docker-registry ...)",
        )
    if world.is_cluster:
        raise SecretNotFound(
            f"Secret {missing[0]!r} was asked for",
            f"namespace {workspace.metadata.namespace} has none of that name",
            "create it there (kubectl create secret docker-registry ...)",
        )
    raise SecretNotFound(
        f"Secret {missing[0]!r} was asked for",
        "it is neither in the file nor is there a docker config of yours",
        "add the Secret to the file or run docker login",
    )
