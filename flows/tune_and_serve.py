"""The form: a model is tuned and served by somebody who has never seen a Workspace."""

from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run

from flows.form import WorkspaceForm, manifests_of
from flows.hand_over import apply_to_cluster, hand_over
from flows.run_workspace import ensure_workspace, stop_workspace_pods
from flows.served import expect_served
from tasks.contract.workspace import Manifests, Workspace
from tasks.plan.data import with_absolute_files
from tasks.platform.current import current_platform, local_platform


async def stop_pods(flow: Any, flow_run: FlowRun, state: Any) -> None:  # noqa: ARG001
    """What a person who cancels the form's run expects; on a cluster it has nothing of its own."""
    if current_platform().is_cluster:
        return
    form = WorkspaceForm.model_validate(flow_run.parameters["workspace"])
    if workspace := await current_platform().find(form.namespace, form.name):
        await stop_workspace_pods(workspace)


@flow(
    name="tune-and-serve",
    flow_run_name="tune and serve {workspace}",
    on_cancellation=[stop_pods],
)
async def tune_and_serve(workspace: WorkspaceForm) -> Any:
    """Tune a model on your data, and have it answer.

    Args:
        workspace: What you decide. The plan then says whether it can be done, what it takes and
            costs, before anything is spent.
    """
    manifests = manifests_of(workspace)
    expect_served(manifests.workspace.metadata)
    if current_platform().is_cluster:
        applied, previous_run = await apply_to_cluster(manifests)
        await _show_instead(applied, push=False)
        return await hand_over(applied, previous_run=previous_run)
    kept = await _keep_here(manifests)
    await _show_instead(kept, push=workspace.push)
    return await ensure_workspace(kept, push=workspace.push, port=None)


async def _keep_here(manifests: Manifests) -> Workspace:
    """The Workspace as this machine keeps it; one with a uid is kept already."""
    workspace = manifests.workspace
    if workspace.metadata.uid:
        return await current_platform().apply(workspace)
    there = with_absolute_files(workspace, Path.cwd())
    return local_platform().store.apply(manifests.model_copy(update={"workspace": there}))


async def _show_instead(workspace: Workspace, *, push: bool) -> None:
    """Have Prefect show the Workspace instead of what was typed, which may hold secrets.

    One that is kept has a uid, by which a run that begins again reads it with all that it has.
    """
    text = yaml.safe_dump(
        workspace.redacted().model_dump(mode="json", by_alias=True, exclude_defaults=True),
        sort_keys=False,
    )
    form = WorkspaceForm(whole_yaml=text, push=push)
    async with get_client() as client:
        await client.update_flow_run(
            UUID(flow_run.id),
            name=f"tune and serve {workspace}",
            parameters={"workspace": form.model_dump(exclude_defaults=True)},
        )
