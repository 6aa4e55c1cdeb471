"""Lineage: from a dataset's digest to what serves, as an artifact of the run that made the last."""

from prefect.artifacts import acreate_markdown_artifact
from prefect.runtime import flow_run

from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Workspace
from tasks.report import lineage_report


async def publish_lineage(workspace: Workspace, status: WorkspaceStatus) -> None:
    """Show in Prefect's UI where each adapter of the Workspace came from; nothing where none is.

    An artifact and no asset of Prefect's: a server that one runs oneself keeps none.
    """
    if not status.adapters.records:
        return
    page = flow_run.ui_url
    text = lineage_report(
        f"Lineage of {workspace}",
        status.adapters,
        status.endpoint if status.served_generation is not None else None,
        runs_url=page.rpartition("/")[0] if page else None,
    )
    await acreate_markdown_artifact(text, key="lineage", description=f"Lineage of {workspace}")
