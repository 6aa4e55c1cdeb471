"""The containers of a pod: a program of ours, or a command in an image of the user's own."""

from math import ceil

from tasks.contract.podlog import EVENT_NONCE
from tasks.contract.programs.evaluation import CommandConfig
from tasks.contract.resources import Resources
from tasks.contract.steps import FETCH_WEIGHTS, MEASURE, SCORE, SERVE, TUNE
from tasks.contract.workspace import Workspace
from tasks.platform.base import Container, Pod
from tasks.platform.manifests.paths import PATHS, TMP_DIR
from tasks.platform.manifests.pod_settings import PodSettings
from tasks.platform.manifests.several_nodes import peers_environment
from tasks.platform.manifests.volumes import command_mounts, mounts_of
from tasks.platform.wire import Object

_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def containers_of(workspace: Workspace, pod: Pod, settings: PodSettings) -> list[Object]:
    """The pod's containers, in the order in which one follows the other."""
    return [
        _users_command(pod, each, each.config, settings)
        if isinstance(each.config, CommandConfig)
        else _program(workspace, pod, each, settings)
        for each in pod.containers
    ]


def _program(workspace: Workspace, pod: Pod, container: Container, settings: PodSettings) -> Object:
    """A program of ours: it finds what it is told in a file, and all that the pod has."""
    return {
        "name": container.name,
        "image": settings.vllm_image if pod.has_vllm else settings.image,
        "command": ["python", "-m", container.program],
        "args": [str(PATHS["config_dir"] / f"{container.name}.json")],
        "env": _environment(workspace, pod, container, settings),
        "resources": _resources(pod, container),
        "securityContext": _SECURITY,
        "volumeMounts": [*mounts_of(workspace, pod, container), *settings.mounts],
    }


def _environment(
    workspace: Workspace, pod: Pod, container: Container, settings: PodSettings
) -> list[Object]:
    environment: list[Object] = []
    if _has_gpus(pod, container) and not pod.has_vllm:
        # PyTorch's allocator then grows its blocks in place: fewer holes that nothing fits into.
        # vLLM shares memory between GPUs in a way that such blocks do not allow.
        # The first of the list, so that an installation's own word comes later and counts.
        environment.append({"name": "PYTORCH_ALLOC_CONF", "value": "expandable_segments:True"})
    environment += [{"name": name, "value": value} for name, value in settings.environment]
    environment += [{"name": "HOME", "value": TMP_DIR}, {"name": "PYTHONUNBUFFERED", "value": "1"}]
    # The uid is known to who may read the pod, and to nobody whose text the program logs.
    uid = {"fieldRef": {"fieldPath": "metadata.uid"}}
    environment.append({"name": EVENT_NONCE, "valueFrom": uid})
    if pod.nodes > 1 and container.name == TUNE:
        environment += peers_environment(workspace, pod)
    if pod.hub_secret and container.name == FETCH_WEIGHTS:
        reference = {"name": pod.hub_secret, "key": "HF_TOKEN"}
        environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return environment


def _users_command(
    pod: Pod, container: Container, config: CommandConfig, settings: PodSettings
) -> Object:
    """A command in an image of the user's own: it reads what was made, and nothing that is secret.

    What the pod's other containers are told, their Secrets and their temporary files are not there.
    """
    told = [*settings.environment, ("HOME", TMP_DIR), *config.environment]
    return {
        "name": container.name,
        "image": config.image,
        # Kubernetes would put variables in the place of $(NAME); nowhere else are there any.
        "command": [word.replace("$(", "$$(") for word in config.words],
        "env": [{"name": name, "value": value} for name, value in told],
        "resources": _resources(pod, container),
        "securityContext": _SECURITY,
        "volumeMounts": [*command_mounts(), *settings.mounts],
    }


def _has_gpus(pod: Pod, container: Container) -> bool:
    return pod.gpus > 0 and container.name in (TUNE, MEASURE, SCORE, SERVE)


def _resources(pod: Pod, container: Container) -> Object:
    requests: Object = {}
    limits: Object = {}
    if pod.resources:
        requests, limits = _amounts(pod.resources)
    if _has_gpus(pod, container):
        limits["nvidia.com/gpu"] = str(pod.gpus)
    return {"requests": requests, "limits": limits}


def _amounts(resources: Resources) -> tuple[Object, Object]:
    """The requests and the limits that stand for it, in Kubernetes' names and quantities."""
    by_name = {
        "cpu": (resources.cpu_cores, 1000, "m"),
        "memory": (resources.memory_gib, 1024, "Mi"),
        "ephemeral-storage": (resources.disk_gib, 1024, "Mi"),
    }
    requests, limits = {}, {}
    for name, (amount, per_unit, suffix) in by_name.items():
        requests[name] = f"{ceil(amount.asked * per_unit)}{suffix}"
        if amount.most is not None:
            limits[name] = f"{ceil(amount.most * per_unit)}{suffix}"
    return requests, limits
