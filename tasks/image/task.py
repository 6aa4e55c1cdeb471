"""Step `push`: the adapter as an OCI image in KAITO's layout, on disk and in a registry."""

from prefect import task
from prefect.artifacts import acreate_link_artifact
from prefect.cache_policies import NO_CACHE

from tasks.contract.artifacts import PublishedImage
from tasks.contract.programs.image import PushConfig, PushResult, TagResult
from tasks.contract.status import WorkspaceStatus
from tasks.contract.steps import PUSH, TAG, StepName
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.pods import tagging_pod
from tasks.steps import again_may_help, change_status, recorded_step, run_container


@task(
    name=StepName.PUSH.value,
    task_run_name=f"{StepName.PUSH} {{workspace}}",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=again_may_help,
)
async def push_image(workspace: Workspace, pod: Pod) -> PublishedImage:
    """The published image with its digest; pushing what is there already changes nothing."""
    config: PushConfig = pod.container(PUSH).config
    async with recorded_step(workspace, StepName.PUSH) as step:
        result = await run_container(workspace, pod, PUSH, answers=PushResult, step=StepName.PUSH)
        image = PublishedImage(
            reference=config.reference,
            digest=result.digest,
            layout_dir=config.layout_dir,
            pushed=result.pushed,
            bytes=result.bytes,
        )
        step.detail = f"{image.reference}@{image.digest} ({_where(image)})"
        if pod.candidate is None:
            await change_status(workspace, lambda status: _keep(status, image))
        await acreate_link_artifact(image.url, key="image", link_text=image.reference)
    return image


@task(
    name=StepName.PUSH.value,
    task_run_name=f"{StepName.PUSH} {{workspace}}",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=again_may_help,
)
async def tag_image(workspace: Workspace, image: PublishedImage, *, push: bool) -> None:
    """Have an image's tag name it again, also where another adapter was pushed under it since."""
    async with recorded_step(workspace, StepName.PUSH) as step:
        pod = await tagging_pod(workspace, image, push=push)
        result = await run_container(workspace, pod, TAG, answers=TagResult, step=StepName.PUSH)
        names = "names again" if result.changed else "still names"
        step.detail = f"{image.reference} {names} {image.digest}"


def _keep(status: WorkspaceStatus, image: PublishedImage) -> None:
    status.image = image
    status.remember_image(image.digest)


def _where(image: PublishedImage) -> str:
    return "pushed" if image.pushed else f"kept in {image.layout_dir}"
