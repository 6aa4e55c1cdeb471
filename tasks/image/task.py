"""Step `push`: the adapter as an OCI image in KAITO's layout, on disk and in a registry."""

from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_link_artifact
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import PublishedImage, TunedAdapter
from tasks.image.pod.config import PushConfig
from tasks.platform import current_platform
from tasks.platform.base import Container
from tasks.status import WorkspaceStatus
from tasks.steps import again_may_help, change_status, recorded_step, run_container
from tasks.workspace import Workspace


@task(
    name="push",
    task_run_name="push {workspace}",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=again_may_help,
)
async def push_image(workspace: Workspace, adapter: TunedAdapter, *, push: bool) -> PublishedImage:
    """The published image with its digest; pushing what is there already changes nothing.

    Args: push: also send it to the registry; else it stays in the image layout on disk.
    """
    assert workspace.tuning
    assert workspace.tuning.output.image
    reference = workspace.tuning.output.image
    platform = current_platform()
    paths = platform.paths(workspace, model=adapter.base_model, revision=adapter.base_revision)
    secret = workspace.tuning.output.image_push_secret or ""
    config = PushConfig(
        adapter_dir=adapter.directory,
        reference=reference,
        layout_dir=paths.images_dir,
        push=push,
        docker_config=await platform.docker_config(workspace, secret) if push else None,
        model_name=workspace.tuning.preset.name,
        annotations=_annotations(workspace, adapter),
    )
    async with recorded_step(workspace, "push") as step:
        container = Container(name="push-image", program="tasks.image.pod", config=config)
        result = await run_container(workspace, container, step="push")
        image = PublishedImage(
            reference=reference,
            digest=result["digest"],
            layout_dir=paths.images_dir,
            pushed=result["pushed"],
            bytes=result["bytes"],
        )
        step.detail = f"{reference}@{image.digest} ({_where(image)})"
        await change_status(workspace, lambda status: _keep(status, image))
        await acreate_link_artifact(
            _link(image, paths.images_dir), key="image", link_text=reference
        )
    return image


def _annotations(workspace: Workspace, adapter: TunedAdapter) -> dict[str, str]:
    """What the image says of its origin; the same when the run is repeated."""
    meta = workspace.metadata
    return {
        "org.opencontainers.image.base.name": adapter.base_model,
        "io.kaitoflow.base.model": adapter.base_model,
        "io.kaitoflow.base.revision": adapter.base_revision,
        "io.kaitoflow.dataset.digest": adapter.dataset_digest,
        "io.kaitoflow.run": f"{workspace} generation {meta.generation}",
    }


def _keep(status: WorkspaceStatus, image: PublishedImage) -> None:
    status.image = image


def _where(image: PublishedImage) -> str:
    return "pushed" if image.pushed else f"kept in {image.layout_dir}"


def _link(image: PublishedImage, layout_dir: Path) -> str:
    if not image.pushed:
        return layout_dir.as_uri()
    registry, _, rest = image.reference.partition("/")
    repository = rest.rsplit(":", 1)[0]
    return f"https://{registry}/v2/{repository}/manifests/{image.digest}"
