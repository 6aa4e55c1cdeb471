"""Step `deploy`: a server that answers with the base model and its adapters."""

import contextlib

from prefect import task
from prefect.artifacts import acreate_link_artifact
from prefect.cache_policies import NO_CACHE

from tasks.contract.artifacts import Endpoint
from tasks.contract.programs.image import PullResult
from tasks.contract.status import ConditionType, WorkspaceStatus
from tasks.contract.steps import FETCH_WEIGHTS, SERVE, StepName
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.current import current_platform
from tasks.steps import change_status, recorded_step, run_container, tell


@task(
    name=StepName.PULL_ADAPTERS.value,
    task_run_name=f"{StepName.PULL_ADAPTERS} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def pull_adapters(workspace: Workspace, pod: Pod) -> None:
    """The adapters' images as folders, one after the other."""
    for container in pod.containers_between(FETCH_WEIGHTS, SERVE):
        name = container.name
        await run_container(workspace, pod, name, answers=PullResult, step=StepName.PULL_ADAPTERS)


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


def _ready(status: WorkspaceStatus, endpoint: Endpoint) -> None:
    status.endpoint = endpoint
    status.set_condition(
        ConditionType.INFERENCE_READY,
        status="True",
        reason="WorkspaceInferenceStatusSuccess",
        message=f"{endpoint.url} answers",
    )
