"""What a pod's volumes are, and where each is mounted."""

import hashlib
from pathlib import Path

from tasks.contract.judge import judge_key_secret
from tasks.contract.programs.evaluation import CommandConfig, EvaluationConfig
from tasks.contract.programs.serving import ServerConfig
from tasks.contract.steps import INFERENCE, SERVE, TAGGING
from tasks.contract.workspace import Workspace
from tasks.platform.base import Container, Pod
from tasks.platform.manifests.naming import (
    NAME_MAX_CHARS,
    admin_key_secret,
    config_map_name,
    shortened,
    user_keys_secret,
)
from tasks.platform.manifests.paths import (
    JUDGE_KEY_FILE,
    PATHS,
    SHARED_MEMORY_DIR,
    TMP_DIR,
    docker_config_path,
    pod_paths,
)
from tasks.platform.wire import Object

_COMMAND_VOLUME = "command-tmp"
_DOCKER_CONFIG_KEY = ".dockerconfigjson"


def volumes_of(workspace: Workspace, pod: Pod) -> list[Object]:
    """All volumes of the pod, whichever of its containers mounts them."""
    config_name = config_map_name(workspace, pod.name, pod.candidate)
    volumes: list[Object] = [
        {"name": "config", "configMap": {"name": config_name}},
        {"name": "dshm", "emptyDir": {"medium": "Memory"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if pod.name == INFERENCE:
        volumes.append(_key_volume("admin-key", admin_key_secret(workspace), "key"))
    if any(isinstance(container.config, CommandConfig) for container in pod.containers):
        volumes.append({"name": _COMMAND_VOLUME, "emptyDir": {}})
    if any(_asks_a_judge(container) for container in pod.containers):
        secret = judge_key_secret(workspace.metadata.name)
        volumes.append(_key_volume("judge-key", secret, "key"))
    if any(_asks_for_keys(container) for container in pod.containers):
        volumes.append(_key_volume("user-keys", user_keys_secret(workspace), "keys"))
    volumes += [{"name": _volume_name(path), "emptyDir": {}} for path in _scratch(workspace, pod)]
    volumes += [{"name": _volume_name(p), **source} for p, source in pod.volumes.items()]
    for secret in dict.fromkeys(pod.secrets):
        items = [{"key": _DOCKER_CONFIG_KEY, "path": "config.json"}]
        source: Object = {"secretName": secret, "items": items}
        if pod.name == INFERENCE:
            # A registry that lets everybody pull needs none: a server comes back without it.
            source["optional"] = True
        volumes.append({"name": _secret_volume(secret), "secret": source})
    return volumes


def mounts_of(workspace: Workspace, pod: Pod, container: Container) -> list[Object]:
    """What a program of ours reads and writes: all but the keys that others are to use."""
    mounts: list[Object] = [
        {"name": "config", "mountPath": str(PATHS["config_dir"]), "readOnly": True},
        {"name": "dshm", "mountPath": SHARED_MEMORY_DIR},
        {"name": "tmp", "mountPath": TMP_DIR},
    ]
    folders = [*_scratch(workspace, pod), *pod.volumes]
    mounts += [{"name": _volume_name(path), "mountPath": str(path)} for path in folders]
    mounts += [
        {
            "name": _secret_volume(secret),
            "mountPath": str(docker_config_path(secret).parent),
            "readOnly": True,
        }
        for secret in dict.fromkeys(pod.secrets)
    ]
    return mounts + _key_mounts(container)


def command_mounts() -> list[Object]:
    """What a user's command reads and writes: what was made, and a folder that is its own."""
    reads = (PATHS["weights_dir"], PATHS["results_dir"])
    return [
        *({"name": _volume_name(path), "mountPath": str(path), "readOnly": True} for path in reads),
        {"name": _COMMAND_VOLUME, "mountPath": TMP_DIR},
        {"name": "dshm", "mountPath": SHARED_MEMORY_DIR},
    ]


def _key_mounts(container: Container) -> list[Object]:
    files = {"admin-key": PATHS["admin_key_file"]} if container.name == SERVE else {}
    if _asks_a_judge(container):
        files["judge-key"] = JUDGE_KEY_FILE
    if _asks_for_keys(container):
        files["user-keys"] = PATHS["user_keys_file"]
    return [
        {"name": name, "mountPath": str(file.parent), "readOnly": True}
        for name, file in files.items()
    ]


def _volume_name(path: Path) -> str:
    return shortened("-".join(path.parts[1:]).replace(".", "-").replace("_", "-"))


def _secret_volume(secret: str) -> str:
    """A volume's name, which may have no dots; that of `push.a` is not that of `push-a`."""
    if "." not in secret:
        return shortened(f"secret-{secret}")
    plain = secret.replace(".", "-")[: NAME_MAX_CHARS - len("secret--12345678")]
    return f"secret-{plain}-{hashlib.sha256(secret.encode()).hexdigest()[:8]}"


def _key_volume(name: str, secret: str, key: str) -> Object:
    """Optional, so that keys may come, change and go while the server serves."""
    items = [{"key": key, "path": key}]
    return {"name": name, "secret": {"secretName": secret, "optional": True, "items": items}}


def _asks_for_keys(container: Container) -> bool:
    config = container.config
    return isinstance(config, ServerConfig) and config.user_keys_file is not None


def _asks_a_judge(container: Container) -> bool:
    config = container.config
    return isinstance(config, EvaluationConfig) and config.judge is not None


def _scratch(workspace: Workspace, pod: Pod) -> list[Path]:
    """The folders that live and die with the pod."""
    if pod.name == TAGGING:
        return [PATHS["images_dir"]]
    wanted = [PATHS["weights_dir"], PATHS["images_dir"]]
    paths = pod_paths(workspace)
    wanted += (
        [paths.adapter_dir]
        if pod.name == INFERENCE
        else [paths.source_dir, paths.data_dir, paths.results_dir]
    )
    return [path for path in dict.fromkeys(wanted) if path not in pod.volumes]
