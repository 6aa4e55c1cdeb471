"""The ConfigMap that a tuning Workspace names, in KAITO's form."""

from tasks.contract.errors import ConfigMapNotFound
from tasks.contract.workspace import Workspace
from tasks.platform.current import current_platform

TRAINING_CONFIG_KEY = "training_config.yaml"


async def read_training_config_text(workspace: Workspace) -> str | None:
    """The text of training_config.yaml; None when the Workspace names no ConfigMap.

    Raises: ConfigMapNotFound: no such ConfigMap, or it lacks the key.
    """
    name = workspace.config_name
    if not name:
        return None
    return config_map_text(await current_platform().read_config_map(workspace, name), name)


def config_map_text(data: object, name: str) -> str:
    """The text of training_config.yaml in a ConfigMap's data.

    Raises: ConfigMapNotFound: no such ConfigMap, or it lacks the key.
    """
    if not isinstance(data, dict):
        raise ConfigMapNotFound(
            f"tuning.config names ConfigMap {name!r}",
            "there is none of that name",
            f"put it into the Workspace's file, after a line with ---; or, on a cluster: kubectl "
            f"create configmap {name} --from-file={TRAINING_CONFIG_KEY} in its namespace",
        )
    if TRAINING_CONFIG_KEY not in data:
        raise ConfigMapNotFound(
            f"tuning.config names ConfigMap {name!r}",
            f"it has the keys {sorted(data)}",
            f"give it the key {TRAINING_CONFIG_KEY}",
        )
    return str(data[TRAINING_CONFIG_KEY])
