"""The way back: what a run made is removed, nodes are given back, and the Workspace may go."""

from prefect import flow

from flows.served import expect_served
from tasks.contract.status import State, WorkspaceStatus
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.nodes.current import current_provisioner
from tasks.platform.current import current_platform
from tasks.steps import change_status


@flow(name="release-workspace", flow_run_name="release {metadata}")
async def release_workspace(metadata: ObjectMeta) -> None:
    """Leave nothing of a Workspace that is being deleted; images in registries are kept.

    Args: metadata: names the Workspace; nothing else of it is needed, however broken it may be.
    """
    expect_served(metadata)
    workspace = Workspace.model_construct(metadata=metadata)
    platform = current_platform()
    await change_status(workspace, being_deleted)
    await platform.delete(workspace)
    await current_provisioner().release(workspace)
    await platform.let_go(workspace)


def being_deleted(status: WorkspaceStatus) -> None:
    """Say that the Workspace goes, and that nothing is to be run again."""
    message = "being deleted: its pods are ended, its nodes are given back"
    status.server_ended(reason="Deleting", message=message)
    status.end_without(State.STOPPED, reason="Deleting", message=message)
