"""Kubernetes' objects as they are on the wire, and what everybody who reads them asks. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

FIELD_MANAGER = "kaitoflow"
"""By this name the API server knows which fields are ours."""

GPU = "nvidia.com/gpu"
"""What nodes count GPUs as, and pods ask for."""

Object = dict[str, Any]
"""An object that we make, or that is ours to change."""

Seen = Mapping[str, Any]
"""An object that is only read."""


def name_of(thing: Seen) -> str:
    """The object's name."""
    return str(thing["metadata"]["name"])


def condition(thing: Seen, kind: str) -> Seen:
    """The condition of a type; empty when the object has none."""
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), {})


def is_condition(thing: Seen, kind: str, status: str = "True") -> bool:
    """Whether the condition of a type is there with a status."""
    return bool(condition(thing, kind).get("status") == status)


def is_pod_ready(pod: Seen | None) -> bool:
    """Whether a pod takes requests: one that is leaving does not, whatever its condition says."""
    if not pod or pod["metadata"].get("deletionTimestamp"):
        return False
    return is_condition(pod, "Ready")


def container_status(pod: Seen, container: str) -> Object | None:
    """What the kubelet says of a container, whether it prepares or stays; None = nothing yet."""
    status = pod.get("status") or {}
    statuses = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return next((each for each in statuses if each["name"] == container), None)


def last_standing(pods: Sequence[Seen]) -> Seen:
    """The last of the pods that are not on their way out; empty when there is none.

    How one ends that was deleted says nothing of the one that takes its place.
    """
    standing = (pod for pod in reversed(pods) if not pod["metadata"].get("deletionTimestamp"))
    return next(standing, {})


def has_failed(job: Seen | None) -> bool:
    """Whether a Job has given up; one that is not there has not."""
    return job is not None and is_condition(job, "Failed")


def is_complete(job: Seen | None) -> bool:
    """Whether a Job has done what it was made for."""
    return job is not None and is_condition(job, "Complete")


def has_ended(job: Seen) -> bool:
    """Whether a Job makes no pod any more: it is done, or has given up, or is about to."""
    ends = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")
    return any(is_condition(job, each) for each in ends)
