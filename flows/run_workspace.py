"""The run: from a Workspace to a model that answers. Every step ensures: a run may be repeated."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_client
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run as this_run
from pydantic import Field

from flows.hand_over import apply_to_cluster, hand_over, is_form_on_a_cluster
from flows.lineage import publish_lineage
from flows.make_room import make_room
from flows.recorded_run import recorded_run, stopped
from flows.release_workspace import being_deleted
from flows.served import expect_served
from tasks.contract.artifacts import Endpoint, Node, Plan, PublishedImage, Tuned, TunedAdapter
from tasks.contract.status import (
    NOT_ASKED,
    ConditionType,
    State,
    WorkspaceStatus,
)
from tasks.contract.workspace import Manifests, Workspace
from tasks.dataset.task import download_dataset, fetch_weights
from tasks.image.task import push_image, tag_image
from tasks.inference.live import running_server
from tasks.inference.task import deploy_inference, kept_server, pull_adapters
from tasks.nodes.task import (
    as_edited,
    give_back_nodes,
    keep_server_nodes,
    kept_nodes,
)
from tasks.plan.data import with_absolute_files
from tasks.plan.marks import seen_data
from tasks.plan.task import check_workspace, find_adapters_again, plan_workspace
from tasks.platform.current import current_platform
from tasks.pods import endpoint_of, inference_pod, tuning_pod
from tasks.report import loss_curve, run_report
from tasks.settings import settings
from tasks.steps import change_status
from tasks.tuning.making import making_of
from tasks.tuning.task import keep_tuned, tune_model

# Prefect forwards these loggers to the run's log; without a level they would say nothing.
for _name in ("tasks", "flows"):
    logging.getLogger(_name).setLevel(logging.INFO)


Port = Annotated[int, Field(ge=0, le=65535)]


async def stop_pods(flow: Any, flow_run: FlowRun, state: Any) -> None:  # noqa: ARG001
    """What a person who cancels a run expects: its pods end, and its status says so."""
    workspace = Workspace.model_validate(flow_run.parameters["workspace"])
    if not is_form_on_a_cluster(workspace, flow_run.tags):
        await stop_workspace_pods(workspace)


async def stop_workspace_pods(workspace: Workspace) -> None:
    """End the pods of a run that was cancelled, and say so in the Workspace's status.

    Where a newer generation is the reason, what serves, and what is told of it, is that one's.
    """
    platform = current_platform()
    is_going = await platform.is_being_deleted(workspace)
    if is_going:
        await change_status(workspace, being_deleted)
    await platform.stop(workspace)
    if not await platform.is_current(workspace):
        return
    await give_back_nodes(workspace)
    status = await platform.read_status(workspace)
    if status.observed_generation == workspace.metadata.generation and not is_going:
        await change_status(workspace, _stop_server)
        await change_status(workspace, stopped)


@flow(name="run-workspace", flow_run_name="run {workspace}", on_cancellation=[stop_pods])
async def run_workspace(
    workspace: Workspace, *, push: bool = False, port: Port | None = None
) -> Any:
    """Tune and serve, or only serve, what a Workspace asks for.

    Args:
        workspace: the object to apply, which names Secrets and ConfigMaps and holds none; with
            metadata.uid one that is kept already, and is read with the secrets of its addresses.
        push: send the image to its registry too, instead of only keeping it on this machine's disk.
        port: where the server listens on this machine; empty = the first free one from 5000 on.
    """
    expect_served(workspace.metadata)
    was_typed = not workspace.metadata.uid
    if is_form_on_a_cluster(workspace, this_run.tags):
        applied, previous_run = await apply_to_cluster(Manifests(workspace=workspace))
        if was_typed:
            await _forget_what_was_typed(applied)
        return await hand_over(applied, previous_run=previous_run)
    if not current_platform().is_cluster:
        # Pods have folders of their own; what the UI's form says counts from this process's.
        workspace = with_absolute_files(workspace, Path.cwd())
    workspace = await current_platform().apply(workspace)
    if was_typed:
        await _forget_what_was_typed(workspace)
    return await ensure_workspace(workspace, push=push, port=port)


async def ensure_workspace(
    workspace: Workspace, *, push: bool, port: int | None
) -> WorkspaceStatus:
    """The status of a Workspace that is kept, once all that it asks for is there."""
    push = push or current_platform().is_cluster
    async with recorded_run(workspace):
        await find_adapters_again(workspace)
        plan = await plan_workspace(workspace, push=push, port=port)
        await check_workspace(workspace, plan)
        adapter = None
        if plan.tuned and not workspace.is_served:
            await bring_back(workspace, plan, plan.tuned, push=push)
        elif workspace.tuning or workspace.is_served:
            adapter = await tune_then_serve(workspace, plan, push=push, port=port)
        status = await settle(workspace)
        await _publish_report(workspace, status, adapter)
        await publish_lineage(workspace, status)
        return status


async def tune_then_serve(
    workspace: Workspace, plan: Plan, *, push: bool, port: int | None
) -> TunedAdapter | None:
    """The adapter, if one was trained; what is served then answers, on nodes that are kept."""
    adapter, image = None, None
    async with kept_server(workspace):
        node, server_ends = await make_room(workspace, plan)
        workspace = await as_edited(workspace)
        if workspace.tuning:
            async with kept_nodes(workspace, memory_gib=plan.memory_gib, server_ends=server_ends):
                adapter, image = await tune_and_publish(workspace, node, plan, push=push)
    if workspace.is_served:
        async with kept_nodes(workspace, memory_gib=plan.memory_gib, server_ends=server_ends):
            await serve(workspace, node, image, port=port)
    return adapter


async def settle(workspace: Workspace) -> WorkspaceStatus:
    """The status of a run that has ended well, with no node that nothing needs any more.

    What serves is told before other nodes go back, which takes minutes. Where nothing serves,
    success says that nothing is held.
    """
    if workspace.is_served:
        kept = await keep_server_nodes(workspace)
        status = await change_status(workspace, _succeed)
        await give_back_nodes(workspace, keep=kept)
        return status
    await current_platform().end_server(workspace)
    await change_status(workspace, _serve_no_more)
    await give_back_nodes(workspace)
    return await change_status(workspace, _succeed)


async def _forget_what_was_typed(workspace: Workspace) -> None:
    """Have Prefect name the object that is kept now, in place of a form's text and its secrets."""
    named = workspace.redacted().model_dump(mode="json", by_alias=True)
    async with get_client() as client:
        await client.update_flow_run(
            UUID(this_run.id), parameters={**this_run.parameters, "workspace": named}
        )


async def tune_and_publish(
    workspace: Workspace, node: Node, plan: Plan, *, push: bool
) -> tuple[TunedAdapter | None, PublishedImage | None]:
    """The adapter, trained on the Workspace's dataset, and its image (None: it is in a volume).

    What was tuned from the very same is not tuned again.
    """
    if plan.tuned:
        await bring_back(workspace, plan, plan.tuned, push=push)
        return None, plan.tuned.image
    pod = await tuning_pod(workspace, node, push=push, dataset_gib=plan.dataset_gib)
    await fetch_weights(workspace, pod)
    # Looked at before it is read: what changes in between is seen to have changed at the next look.
    data = await seen_data(workspace, settings(), current_platform())
    dataset = await download_dataset(workspace, pod)
    adapter, image = await tune_model(workspace, pod), None
    assert workspace.tuning
    if workspace.tuning.output.image:
        image = await push_image(workspace, pod)

    def remember(status: WorkspaceStatus) -> None:
        making = making_of(
            workspace,
            pod,
            dataset,
            adapter,
            run=str(this_run.id or ""),
            node=node.name,
            machines=status.cost.machines,
        )
        status.remember_tuned(plan.training, image, data.with_digest(dataset.digest), making)

    await change_status(workspace, remember)
    return adapter, image


async def bring_back(workspace: Workspace, plan: Plan, tuned: Tuned, *, push: bool) -> None:
    """What was tuned before is the Workspace's adapter again, under the name of its image."""
    if plan.comes_back and tuned.image:
        await tag_image(workspace, tuned.image, push=push)
    await keep_tuned(workspace, tuned, training=plan.training)


async def serve(
    workspace: Workspace, node: Node, image: PublishedImage | None, *, port: int | None
) -> Endpoint:
    """The address at which the base model answers, with the tuned adapter or those it names."""
    address = await current_platform().server_address(workspace, port=port)
    pod = await running_server(workspace, node, image, address)
    if pod is None:
        pod = await inference_pod(workspace, node, image, address)
        if pod.template is None:
            await fetch_weights(workspace, pod)
            await pull_adapters(workspace, pod)
    return await deploy_inference(workspace, pod, endpoint_of(workspace, address))


def _stop_server(status: WorkspaceStatus) -> None:
    status.server_ended(reason="Stopped", message="the run was stopped, and the server with it")


def _serve_no_more(status: WorkspaceStatus) -> None:
    message = 'annotation kaito.sh/serve is "false"; remove it to have the model served'
    status.server_ended(reason="Stopped", message=message)
    status.objects = []


def _succeed(status: WorkspaceStatus) -> None:
    status.state = State.SUCCEEDED if status.served_generation is None else State.READY
    status.set_condition(
        ConditionType.WORKSPACE_SUCCEEDED,
        status="True",
        reason="workspaceSucceeded",
        message=_made(status),
    )
    status.leave_undone(NOT_ASKED, "the run ended well without it")
    status.cost = status.cost.at(datetime.now(UTC))


def _made(status: WorkspaceStatus) -> str:
    """What a run that ended well has left behind, in one line."""
    made = [f"the adapter is {status.image.reference}"] if status.image else []
    if status.endpoint and status.served_generation is not None:
        made.append(f"{status.endpoint.url} serves {status.endpoint.model}")
    return " and ".join(made) or "the adapter is in its volume"


async def _publish_report(
    workspace: Workspace, status: WorkspaceStatus, adapter: TunedAdapter | None
) -> None:
    history = adapter.metrics.history if adapter else ()
    text = run_report(f"Run of {workspace}", status, history, curve=loss_curve(history))
    await acreate_markdown_artifact(text, key="report", description=f"Report of {workspace}")
