"""The ConfigMap that a Workspace names, in KAITO's form: of its tuning or of its server."""

from tasks.contract.errors import ConfigMapNotFound
from tasks.contract.inference_config import (
    INFERENCE_CONFIG_KEY,
    InferenceConfig,
    parse_inference_config,
)
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


async def read_inference_config(workspace: Workspace) -> InferenceConfig:
    """What the ConfigMap of a server asks for.

    Raises: ConfigMapNotFound; InvalidWorkspace, naming what of it cannot be.
    """
    name = workspace.inference.config if workspace.inference else None
    if not name:
        return InferenceConfig()
    return inference_config(await current_platform().read_config_map(workspace, name), name)


def inference_config(data: object, name: str) -> InferenceConfig:
    """What a ConfigMap's data asks of a server. Raises: as `read_inference_config`."""
    text = config_map_text(data, name, key=INFERENCE_CONFIG_KEY, field="inference.config")
    return parse_inference_config(text)


def config_map_text(
    data: object, name: str, *, key: str = TRAINING_CONFIG_KEY, field: str = "tuning.config"
) -> str:
    """The text of a key in a ConfigMap's data; field: of the Workspace, that names it.

    Raises: ConfigMapNotFound: no such ConfigMap, or it lacks the key.
    """
    if not isinstance(data, dict):
        raise ConfigMapNotFound(
            f"{field} names ConfigMap {name!r}",
            "there is none of that name",
            f"put it into the Workspace's file, after a line with ---; or, on a cluster: kubectl "
            f"create configmap {name} --from-file={key} in its namespace",
        )
    if key not in data:
        raise ConfigMapNotFound(
            f"{field} names ConfigMap {name!r}",
            f"it has the keys {sorted(data)}",
            f"give it the key {key}",
        )
    return str(data[key])
