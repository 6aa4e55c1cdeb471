"""A stopped Workspace keeps no node: also one whose run ended long ago, and which was served."""

from prefect import flow

from flows.served import expect_served
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.nodes.current import current_provisioner


@flow(name="stop-workspace", flow_run_name="stop {metadata}")
async def stop_workspace(metadata: ObjectMeta) -> None:
    """Give back the nodes of a Workspace that was stopped; a run that resumes it claims its own.

    Args: metadata: names the Workspace; its pods are the watcher's to end.
    """
    expect_served(metadata)
    workspace = Workspace.model_construct(metadata=metadata)
    await current_provisioner().release(workspace, is_final=False)
