"""The ConfigMap with what a pod's containers are told."""

import functools
import hashlib
from typing import Any

from pydantic import TypeAdapter

from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.manifests.naming import config_map_name
from tasks.platform.manifests.owned import owned_object
from tasks.platform.wire import Object


def config_map(workspace: Workspace, pod: Pod) -> Object:
    """What the pod's containers are told, one file each, and the files beside them."""
    configs = {
        f"{container.name}.json": _adapter(type(container.config))  # type: ignore[arg-type]
        .dump_json(container.config, indent=1)
        .decode()
        for container in pod.containers
    }
    name = config_map_name(workspace, pod.name, pod.candidate)
    return owned_object("v1", "ConfigMap", workspace, name, data={**pod.files, **configs})


@functools.cache
def _adapter(config: type[Any]) -> TypeAdapter[Any]:
    """Made once for each program: to make one takes longer than all the rest of a manifest."""
    return TypeAdapter(config)


def config_digest(workspace: Workspace, pod: Pod) -> str:
    """Another one for whatever else the pod's containers are told."""
    data: dict[str, str] = config_map(workspace, pod)["data"]
    text = "\0".join(f"{key}\0{value}" for key, value in sorted(data.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
