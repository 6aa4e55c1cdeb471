"""Step `deploy`: a server that answers with the base model and its adapters."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from prefect import task
from prefect.artifacts import acreate_link_artifact
from prefect.cache_policies import NO_CACHE

from tasks.contract.artifacts import Endpoint
from tasks.contract.errors import KaitoflowError
from tasks.contract.programs.image import PullResult, PullsConfig, PullsResult
from tasks.contract.status import SERVER_PAUSED, ConditionType, State, WorkspaceStatus
from tasks.contract.steps import FETCH_WEIGHTS, SERVE, StepName
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.current import current_platform
from tasks.steps import change_status, recorded_step, run_container, tell

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 15.0


@task(
    name=StepName.PULL_ADAPTERS.value,
    task_run_name=f"{StepName.PULL_ADAPTERS} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def pull_adapters(workspace: Workspace, pod: Pod) -> None:
    """The adapters' images as folders, one after the other."""
    for container in pod.containers_between(FETCH_WEIGHTS, SERVE):
        answers = PullsResult if isinstance(container.config, PullsConfig) else PullResult
        await run_container(
            workspace, pod, container.name, answers=answers, step=StepName.PULL_ADAPTERS
        )


@task(
    name=StepName.DEPLOY.value,
    task_run_name=f"{StepName.DEPLOY} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def deploy_inference(workspace: Workspace, pod: Pod, endpoint: Endpoint) -> Endpoint:
    """The address of a server that answers; one that runs with the same model is kept.

    Raises: ServerNotReady, or what the server's verdict says (PortInUse, AdapterMismatch, ...).
    """
    async with recorded_step(workspace, StepName.DEPLOY) as step:
        lines = current_platform().ensure_server(workspace, pod, endpoint=endpoint)
        async with contextlib.aclosing(lines):
            await tell(workspace, lines, step=StepName.DEPLOY)
        step.detail = f"{endpoint.url} serves {endpoint.model}"
        await change_status(workspace, lambda status: _ready(status, endpoint))
        await acreate_link_artifact(endpoint.url, key="service", link_text=endpoint.url)
    return endpoint


async def pause_server(workspace: Workspace) -> None:
    """Free the server's GPU for the tuning of its successor, which takes its place afterwards."""
    generation = workspace.metadata.generation

    def pause(status: WorkspaceStatus) -> None:
        older = status.served_generation
        if older is not None:
            newer = f"generation {generation}" if older != generation else "a candidate for it"
            message = (
                f"generation {older} pauses while {newer} is tuned on its GPU; it "
                "comes back with the new adapter, or as it was if that fails"
            )
            _not_ready(status, SERVER_PAUSED, message)

    await change_status(workspace, pause)
    await current_platform().pause_server(workspace)


async def resume_server(workspace: Workspace) -> None:
    """Let what pauses serve again, as it was, since its successor was not tuned."""
    status = await current_platform().read_status(workspace)
    if not status.is_server_paused:
        return

    def resume(status: WorkspaceStatus) -> None:
        message = f"generation {status.served_generation} comes back as it was"
        _not_ready(status, "WorkspaceInferenceStatusPending", message)

    await current_platform().resume_server(workspace)
    await change_status(workspace, resume)


@contextlib.asynccontextmanager
async def kept_server(workspace: Workspace) -> AsyncIterator[None]:
    """While the context lasts, what serves beside it gets back what is deleted of it."""
    keeper = asyncio.create_task(_keep(workspace), name=f"server of {workspace}")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _keep(workspace: Workspace) -> None:
    platform = current_platform()
    while True:
        await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            status = await platform.read_status(workspace)
            if status.serves_beside and not status.is_server_paused:
                await platform.restore_server(workspace)
        except KaitoflowError as error:
            logger.warning("server not kept workspace=%s: %s", workspace, error)


async def await_served(workspace: Workspace) -> None:
    """Return when what is served answers again, as it did, and is told so."""
    async with recorded_step(workspace, StepName.DEPLOY) as step:
        async with contextlib.aclosing(current_platform().await_served(workspace)) as lines:
            await tell(workspace, lines, step=StepName.DEPLOY)
        status = await change_status(workspace, _again)
        step.detail = f"generation {status.served_generation} is served again"


def _not_ready(status: WorkspaceStatus, reason: str, message: str) -> None:
    """Say why what serves does not answer now."""
    status.set_condition(
        ConditionType.INFERENCE_READY,
        status="False",
        reason=reason,
        message=message,
        generation=status.served_generation,
    )


def _ready(status: WorkspaceStatus, endpoint: Endpoint) -> None:
    status.endpoint = endpoint
    _answers(status, generation=status.observed_generation)


def _again(status: WorkspaceStatus) -> None:
    _answers(status, generation=status.served_generation)


def _answers(status: WorkspaceStatus, *, generation: int | None) -> None:
    assert status.endpoint
    if status.state.is_of_server:
        status.state = State.READY
    status.set_condition(
        ConditionType.INFERENCE_READY,
        status="True",
        reason="WorkspaceInferenceStatusSuccess",
        message=f"{status.endpoint.url} answers",
        generation=generation,
    )
