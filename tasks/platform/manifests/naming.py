"""The names of a Workspace's objects: they follow from its own, and are short enough."""

import hashlib

from tasks.contract.steps import CANDIDATE, INFERENCE, TAGGING, TUNING
from tasks.contract.workspace import Workspace

NAME_MAX_CHARS = 63
# A StatefulSet's pods carry its name and a hash of ten more characters in a label.
_STATEFUL_SET_MAX_CHARS = 52
# An Indexed Job's pods carry its name and their number in a host name; this has room for 999.
_INDEXED_JOB_MAX_CHARS = 59
# The pods that Jobs run, and what each does, in their Jobs' names.
_JOBS = {TUNING: "tune", CANDIDATE: "tune", TAGGING: "tag"}


def object_names(workspace: Workspace) -> list[tuple[str, str]]:
    """(kind, name) of every object that the Workspace is made into."""
    names = []
    if workspace.tuning:
        names += [("Job", job_name(workspace))]
        names += [("ConfigMap", config_map_name(workspace, TUNING))]
    if _is_on_several(workspace):
        names += [("Service", peers_name(workspace))]
    if workspace.is_served:
        names += [("Service", workspace.metadata.name), ("Service", headless_name(workspace))]
        names += [("StatefulSet", stateful_set_name(workspace))]
        names += [("ConfigMap", config_map_name(workspace, INFERENCE))]
    return names


def job_name(workspace: Workspace, pod: str = TUNING, candidate: int | None = None) -> str:
    """The Job of the Workspace's generation that runs a pod: the tuning one, or another."""
    number = _numbered(workspace, candidate)
    limit = _INDEXED_JOB_MAX_CHARS if _is_on_several(workspace) else NAME_MAX_CHARS
    return shortened(f"{workspace.metadata.name}-{_JOBS[pod]}-{number}", limit)


def job_names(workspace: Workspace) -> set[str]:
    """The Jobs that the Workspace's generation itself may have."""
    return {job_name(workspace, pod) for pod in (TUNING, TAGGING)}


def stateful_set_name(workspace: Workspace) -> str:
    """The inference StatefulSet: the Workspace's own name."""
    return shortened(workspace.metadata.name, _STATEFUL_SET_MAX_CHARS)


def service_url(workspace: Workspace) -> str:
    """Where the Workspace's Service answers inside the cluster."""
    return f"http://{workspace.metadata.name}.{workspace.metadata.namespace}.svc"


def headless_name(workspace: Workspace) -> str:
    """The Service behind the StatefulSet."""
    return shortened(f"{workspace.metadata.name}-headless")


def peers_name(workspace: Workspace) -> str:
    """The Service by which the pods of one Job find each other."""
    return shortened(f"{workspace.metadata.name}-tune-pods")


def candidate_config_map_name(workspace: Workspace, candidate: int) -> str:
    """The ConfigMap with what a candidate's containers are told."""
    return config_map_name(workspace, CANDIDATE, candidate)


def config_map_name(workspace: Workspace, pod: str, candidate: int | None = None) -> str:
    """The ConfigMap with what a pod's containers are told."""
    return shortened(f"{workspace.metadata.name}-{pod}-{_numbered(workspace, candidate)}")


def admin_key_secret(workspace: Workspace) -> str:
    """The Secret whose `key` opens the server's admin endpoints; only a user makes it."""
    return f"{workspace.metadata.name}-admin-key"


def user_keys_secret(workspace: Workspace) -> str:
    """The Secret whose `keys` open the server to its users; only a person makes it."""
    return f"{workspace.metadata.name}-user-keys"


def shortened(name: str, limit: int = NAME_MAX_CHARS) -> str:
    """The name, or when it is too long its beginning and a digest of the whole."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _numbered(workspace: Workspace, candidate: int | None) -> str:
    """The generation, with the number of a candidate for it."""
    generation = str(workspace.metadata.generation)
    return generation if candidate is None else f"{generation}-c{candidate}"


def _is_on_several(workspace: Workspace) -> bool:
    return workspace.tuning is not None and workspace.resource.count > 1
