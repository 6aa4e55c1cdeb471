"""What is noted of how an adapter was made: from which rows, by which settings, at what price."""

from collections.abc import Iterable

from tasks.config_map import TRAINING_CONFIG_KEY
from tasks.contract.adapter_history import Making
from tasks.contract.artifacts import Dataset, TunedAdapter
from tasks.contract.data_marks import FileMark
from tasks.contract.held_cost import HeldMachine
from tasks.contract.training_config import parse_training_config
from tasks.contract.training_settings import training_settings
from tasks.contract.workspace import BAD_ROWS_ANNOTATION, Workspace
from tasks.platform.base import Pod
from tasks.pods import preset_of

# A status has its bounds, and up to fifty adapters.
_MOST_FILES = 20


def making_of(
    workspace: Workspace,
    pod: Pod,
    dataset: Dataset,
    adapter: TunedAdapter,
    *,
    run: str,
    node: str,
    machines: Iterable[HeldMachine],
) -> Making:
    """How a pod has made its adapter.

    Args: run: the flow run's id. node: that it ran on. machines: that were made for the Workspace.
    """
    seconds, files = adapter.metrics.seconds, dataset.report.files
    marks = [FileMark(name=f.url or f.name, bytes=f.bytes, digest=f.sha256) for f in files]
    return Making(
        run=run,
        rows=dataset.rows,
        files=tuple(marks) if len(marks) <= _MOST_FILES else (),
        settings=_settings(workspace, pod),
        seconds=seconds,
        price_usd=_price_usd(seconds, node=node, machines=machines),
    )


def _settings(workspace: Workspace, pod: Pod) -> dict[str, str]:
    """All that the training depends on beside its rows, by name."""
    assert workspace.tuning
    preset, method = preset_of(workspace), workspace.tuning.method
    config = parse_training_config(pod.files.get(TRAINING_CONFIG_KEY), method=method)
    own = {"base model": f"{preset.model}@{preset.revision}", "tuning.method": config.method}
    if tolerance := workspace.metadata.annotations.get(BAD_ROWS_ANNOTATION):
        own[BAD_ROWS_ANNOTATION] = tolerance
    return own | training_settings(config)


def _price_usd(seconds: float, *, node: str, machines: Iterable[HeldMachine]) -> float | None:
    held = next((each for each in machines if node and each.node == node and not each.until), None)
    if held is None or held.price_per_hour is None:
        return None
    return round(held.price_per_hour * seconds / 3600, 4)
