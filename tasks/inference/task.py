"""Step `deploy`: a server that answers with the base model and its adapters."""

import contextlib
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_link_artifact
from prefect.cache_policies import NO_CACHE

from serving.config import AdapterSource, ServerConfig
from tasks.artifacts import Endpoint, Weights
from tasks.image.pod.config import PullConfig
from tasks.platform import current_platform
from tasks.platform.base import Container
from tasks.platform.local import HOST, SERVER, is_free
from tasks.presets import find_preset
from tasks.status import ConditionType, WorkspaceStatus
from tasks.steps import change_status, recorded_step, run_container, tell
from tasks.workspace import Adapter, Workspace

_FIRST_PORT = 5000
_PORTS_TRIED = 100


@task(name="pull adapters", task_run_name="pull adapters {workspace}", cache_policy=NO_CACHE)
async def pull_adapters(workspace: Workspace, weights: Weights) -> list[AdapterSource]:
    """The adapters that an inference Workspace names, as folders."""
    adapters = workspace.inference.adapters if workspace.inference else []
    return [await _pull_adapter(workspace, weights, adapter) for adapter in adapters]


async def _pull_adapter(workspace: Workspace, weights: Weights, adapter: Adapter) -> AdapterSource:
    platform = current_platform()
    paths = platform.paths(workspace, model=weights.model, revision=weights.revision)
    name = adapter.source.name or ""
    target = paths.adapter_dir / name
    if adapter.source.image:
        secrets = [
            await platform.docker_config(workspace, s) for s in adapter.source.image_pull_secrets
        ]
        config = PullConfig(
            reference=adapter.source.image,
            target_dir=target,
            layout_dir=paths.images_dir,
            docker_configs=tuple(path for path in secrets if path),
        )
        container = Container(name=f"pull-{name}", program="tasks.image.pod.pull", config=config)
        await run_container(workspace, container, step="pull adapters")
    return AdapterSource(name=name, path=target, strength=float(adapter.strength))


@task(name="deploy", task_run_name="deploy {workspace}", cache_policy=NO_CACHE)
async def deploy_inference(
    workspace: Workspace, weights: Weights, adapters: list[AdapterSource], *, port: int | None
) -> Endpoint:
    """The address of a server that answers; one that runs with the same model is kept.

    Args: port: None = the one it had before, else the first free one from 5000 on.
    Raises: ServerNotReady, or what the server's verdict says (PortInUse, AdapterMismatch, ...).
    """
    assert workspace.preset
    platform = current_platform()
    status = await platform.read_status(workspace)
    chosen = _choose_port(status, port, is_serving=platform.is_serving(workspace))
    served = find_preset(workspace.preset.name).name
    default = adapters[0].name if workspace.tuning and adapters else served
    config = ServerConfig(
        weights_dir=weights.directory,
        served_model_name=served,
        adapters=tuple(adapters),
        default_model=default,
        host=HOST,
        port=chosen,
    )
    endpoint = Endpoint(url=f"http://{HOST}:{chosen}", model=default)
    async with recorded_step(workspace, "deploy") as step:
        container = Container(name=SERVER, program="serving", config=config)
        lines = platform.ensure_server(workspace, container, endpoint=endpoint)
        async with contextlib.aclosing(lines):
            await tell(workspace, lines, step="deploy")
        step.detail = f"{endpoint.url} serves {default}"
        await change_status(workspace, lambda status: _ready(status, endpoint))
        await acreate_link_artifact(endpoint.url, key="service", link_text=endpoint.url)
    return endpoint


def tuned_adapter(workspace: Workspace, directory: Path) -> list[AdapterSource]:
    """The adapter that a tuning Workspace has just made, under the Workspace's name."""
    return [AdapterSource(name=workspace.metadata.name, path=directory)]


def _ready(status: WorkspaceStatus, endpoint: Endpoint) -> None:
    status.endpoint = endpoint
    status.set_condition(
        ConditionType.INFERENCE_READY,
        status="True",
        reason="WorkspaceInferenceStatusSuccess",
        message=f"{endpoint.url} answers",
    )


def _choose_port(status: WorkspaceStatus, wanted: int | None, *, is_serving: bool) -> int:
    previous = int(status.endpoint.url.rsplit(":", 1)[1]) if status.endpoint else None
    if wanted is not None:
        return wanted  # the server itself refuses a port that is taken
    if previous and (is_serving or is_free(previous)):
        return previous
    candidates = range(_FIRST_PORT, _FIRST_PORT + _PORTS_TRIED)
    return next((port for port in candidates if is_free(port)), _FIRST_PORT)
