"""The way back: what a run made is removed, nodes are given back, and the Workspace may go."""

from prefect import flow

from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.nodes.current import current_provisioner
from tasks.platform.current import current_platform


@flow(name="release-workspace", flow_run_name="release {metadata}")
async def release_workspace(metadata: ObjectMeta) -> None:
    """Leave nothing of a Workspace that is being deleted; images in registries are kept.

    Args: metadata: names the Workspace; nothing else of it is needed, however broken it may be.
    """
    workspace = Workspace.model_construct(metadata=metadata)
    platform = current_platform()
    await platform.delete(workspace)
    await current_provisioner().release(workspace)
    await platform.let_go(workspace)
