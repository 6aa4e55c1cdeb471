"""The way back: what a run made is removed, nodes are given back, and the Workspace may go."""

from prefect import flow

from tasks.nodes import current_provisioner
from tasks.platform import current_platform
from tasks.workspace import Workspace


@flow(name="release-workspace", flow_run_name="release {workspace}")
async def release_workspace(workspace: Workspace) -> None:
    """Leave nothing of a Workspace that is being deleted; images in registries are kept.

    Args: workspace: the object as it was; its run has been cancelled.
    """
    platform = current_platform()
    await platform.delete(workspace)
    await current_provisioner().release(workspace)
    await platform.let_go(workspace)
