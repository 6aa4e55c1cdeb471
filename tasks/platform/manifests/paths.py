"""Where the files lie in a pod."""

from pathlib import Path

from tasks.contract.workspace import Workspace
from tasks.platform.base import PodPaths

PATHS = {
    "config_dir": Path("/mnt/config"),
    "source_dir": Path("/mnt/data"),
    "results_dir": Path("/mnt/results"),
    "adapter_dir": Path("/mnt/adapter"),
    "weights_dir": Path("/workspace/weights"),
    "images_dir": Path("/mnt/images"),
    "admin_key_file": Path("/mnt/admin/key"),
    "user_keys_file": Path("/mnt/users/keys"),
}
JUDGE_KEY_FILE = Path("/mnt/judge/key")
TMP_DIR, SHARED_MEMORY_DIR = "/tmp", "/dev/shm"  # noqa: S108  volumes of the pod's own
_PREPARED_DIR = Path("/mnt/dataset")
_SECRETS_DIR = Path("/mnt/secrets")


def pod_paths(workspace: Workspace) -> PodPaths:
    """Where the pods find their files; a dataset that is mounted is prepared beside its volume."""
    downloads = workspace.tuning is not None and bool(workspace.tuning.input.urls)
    return PodPaths(**PATHS, data_dir=PATHS["source_dir"] if downloads else _PREPARED_DIR)


def docker_config_path(secret: str) -> Path:
    """Where a docker-config Secret is mounted; the kubelet brings a changed one up to date."""
    return _SECRETS_DIR / secret / "config.json"
