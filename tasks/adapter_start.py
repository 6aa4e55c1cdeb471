"""The adapter that a Workspace's tuning goes on from: where its pod finds it."""

from dataclasses import dataclass
from pathlib import Path

from tasks.contract.artifacts import PublishedImage
from tasks.contract.continuing import CONTINUE_ANNOTATION, Start, parse_start
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.programs.image import PullConfig
from tasks.contract.status import WorkspaceStatus
from tasks.contract.steps import FETCH_START
from tasks.contract.workspace import Workspace
from tasks.platform.base import Container, PodPaths
from tasks.platform.current import current_platform
from tasks.settings import settings


@dataclass(frozen=True, kw_only=True)
class AdapterStart:
    """An adapter's folder in the pod, what it is called, and the container that fetches it there.

    fetch: None = it is a folder of this machine.
    """

    name: str
    folder: Path
    fetch: Container | None = None


def asked_start(workspace: Workspace) -> Start | None:
    """What the Workspace says that its tuning is to go on from; None = it begins anew.

    Raises: InvalidWorkspace, ImageReferenceInvalid.
    """
    return parse_start(workspace.metadata.annotations.get(CONTINUE_ANNOTATION))


async def adapter_start(
    workspace: Workspace, paths: PodPaths, *, docker_configs: tuple[Path, ...]
) -> AdapterStart | None:
    """Where the pod finds the adapter; None = it begins anew, as it does where nothing serves yet.

    Raises: InvalidWorkspace.
    """
    start = asked_start(workspace)
    if start is None:
        return None
    if start.folder:
        if current_platform().is_cluster:
            raise folder_on_a_cluster(start)
        return AdapterStart(name=start.folder, folder=Path(start.folder))
    image = start.image
    if not image:
        serving = serving_image(await current_platform().read_status(workspace))
        if serving is None:
            return None
        image = f"{serving.reference}@{serving.digest}"
    folder = paths.results_dir / "start"
    config = PullConfig(
        reference=image,
        target_dir=folder,
        layout_dir=paths.images_dir,
        docker_configs=docker_configs,
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )
    fetch = Container(name=FETCH_START, program="tasks.image.pod.pull", config=config)
    return AdapterStart(name=image, folder=folder, fetch=fetch)


def serving_image(status: WorkspaceStatus) -> PublishedImage | None:
    """The image of the adapter that serves, or would; None where there is none."""
    if serving := status.adapters.serving:
        return serving.image
    return status.tuned.image if status.tuned else None


def folder_on_a_cluster(start: Start) -> InvalidWorkspace:
    """The error that says why a folder cannot be gone on from in pods."""
    return InvalidWorkspace(
        f"annotation {CONTINUE_ANNOTATION} names the folder {start.folder}",
        "pods have no folders of yours",
        "publish the adapter and name its image",
    )
