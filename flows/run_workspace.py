"""The run: from a Workspace to a model that answers. Every step ensures: a run may be repeated."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from pydantic import Field

from tasks.contract.artifacts import Endpoint, Node, PublishedImage, TunedAdapter
from tasks.contract.errors import InternalError, KaitoflowError, Refused
from tasks.contract.status import ConditionType, Progress, State, WorkspaceStatus, fresh_status
from tasks.contract.workspace import Workspace
from tasks.dataset.task import download_dataset, fetch_weights
from tasks.image.task import push_image
from tasks.inference.task import deploy_inference, pull_adapters
from tasks.nodes.task import give_back_nodes, give_back_unused_nodes, kept_nodes, provision_node
from tasks.plan.data import with_absolute_files
from tasks.plan.task import check_workspace, plan_workspace
from tasks.platform.current import current_platform
from tasks.pods import endpoint_of, inference_pod, tuning_pod
from tasks.report import loss_curve, run_report
from tasks.steps import change_status
from tasks.tuning.task import tune_model

# Prefect forwards these loggers to the run's log; without a level they would say nothing.
for _name in ("tasks", "flows"):
    logging.getLogger(_name).setLevel(logging.INFO)


Port = Annotated[int, Field(ge=0, le=65535)]


async def stop_pods(flow: Any, flow_run: FlowRun, state: Any) -> None:  # noqa: ARG001
    """What a person who cancels a run expects: its pods end, and its status says so."""
    workspace = Workspace.model_validate(flow_run.parameters["workspace"])
    platform = current_platform()
    await platform.stop(workspace)
    if await platform.is_current(workspace):
        await give_back_nodes(workspace)
    status = await platform.read_status(workspace)
    if status.observed_generation == workspace.metadata.generation:
        await change_status(workspace, _stop_server)
        await change_status(workspace, _stop)


@flow(name="run-workspace", flow_run_name="run {workspace}", on_cancellation=[stop_pods])
async def run_workspace(
    workspace: Workspace, *, push: bool = False, port: Port | None = None
) -> WorkspaceStatus:
    """Tune and serve, or only serve, what a Workspace asks for.

    Args:
        workspace: the object as applied; it names Secrets and ConfigMaps and holds none.
        push: send the image to its registry too, instead of only keeping it on this machine's disk.
        port: where the server listens on this machine; empty = the first free one from 5000 on.
    """
    platform = current_platform()
    if not platform.is_cluster:
        # Pods have folders of their own; what the UI's form says counts from this process's.
        workspace = with_absolute_files(workspace, Path.cwd())
    workspace = await platform.apply(workspace)
    push = push or platform.is_cluster
    async with recorded_run(workspace):
        plan = await plan_workspace(workspace, push=push, port=port)
        await check_workspace(workspace, plan)
        node = await provision_node(workspace, memory_gib=plan.memory_gib)
        adapter, image = None, None
        async with kept_nodes(workspace, memory_gib=plan.memory_gib):
            if workspace.tuning:
                adapter, image = await tune_and_publish(workspace, node, push=push)
            if workspace.is_served:
                await serve(workspace, node, image, port=port)
        if not workspace.is_served:
            await change_status(workspace, _serve_no_more)
            await give_back_nodes(workspace)
        status = await change_status(workspace, _succeed)
        await _publish_report(workspace, status, adapter)
        return status


async def tune_and_publish(
    workspace: Workspace, node: Node, *, push: bool
) -> tuple[TunedAdapter, PublishedImage | None]:
    """The adapter, trained on the Workspace's dataset, and its image (None: it is in a volume)."""
    pod = await tuning_pod(workspace, node, push=push)
    await fetch_weights(workspace, pod)
    await download_dataset(workspace, pod)
    adapter = await tune_model(workspace, pod)
    assert workspace.tuning
    if not workspace.tuning.output.image:
        return adapter, None
    return adapter, await push_image(workspace, pod)


async def serve(
    workspace: Workspace, node: Node, image: PublishedImage | None, *, port: int | None
) -> Endpoint:
    """The address at which the base model answers, with the tuned adapter or those it names."""
    address = await current_platform().server_address(workspace, port=port)
    pod = await inference_pod(workspace, node, image, address)
    if pod.template is None:
        await fetch_weights(workspace, pod)
        await pull_adapters(workspace, pod)
    return await deploy_inference(workspace, pod, endpoint_of(workspace, address))


@contextlib.asynccontextmanager
async def recorded_run(workspace: Workspace) -> AsyncIterator[None]:
    """Be the Workspace's only run, and leave in its status how the run ended."""
    platform = current_platform()
    async with platform.hold_run(workspace):
        previous = await platform.read_status(workspace)
        status = fresh_status(workspace.metadata.generation, previous)
        status.flow_run_id = str(flow_run.id or "")
        await platform.write_status(workspace, status)
        try:
            yield
        except asyncio.CancelledError:
            # On a cluster the next worker goes on with the pods, unless `stop_pods` ends them.
            if not platform.is_cluster:
                await asyncio.shield(change_status(workspace, _stop))
            raise
        except KaitoflowError as error:
            await _fail(workspace, error)
            await give_back_unused_nodes(workspace)
            raise
        except Exception as error:
            await _fail(
                workspace,
                InternalError(
                    "", f"{type(error).__name__}: {error}", "please report it with the run's log"
                ),
            )
            await give_back_unused_nodes(workspace)
            raise


async def _fail(workspace: Workspace, error: KaitoflowError) -> None:
    def change(status: WorkspaceStatus) -> None:
        refused = isinstance(error, Refused) and not status.is_true(ConditionType.ACCEPTED)
        kind = ConditionType.ACCEPTED if refused else ConditionType.WORKSPACE_SUCCEEDED
        status.state, status.progress = State.FAILED, Progress()
        status.set_condition(kind, status="False", reason=error.reason, message=str(error))

    await change_status(workspace, change)


def _stop(status: WorkspaceStatus) -> None:
    status.state, status.progress = State.STOPPED, Progress()
    status.set_condition(
        ConditionType.WORKSPACE_SUCCEEDED,
        status="False",
        reason="Stopped",
        message="the run was stopped; run it again to resume",
    )


def _stop_server(status: WorkspaceStatus) -> None:
    status.server_ended(reason="Stopped", message="the run was stopped, and the server with it")


def _serve_no_more(status: WorkspaceStatus) -> None:
    message = 'annotation kaito.sh/serve is "false"; remove it to have the model served'
    status.server_ended(reason="Stopped", message=message)


def _succeed(status: WorkspaceStatus) -> None:
    status.state = State.SUCCEEDED if status.served_generation is None else State.READY
    status.set_condition(
        ConditionType.WORKSPACE_SUCCEEDED, status="True", reason="workspaceSucceeded"
    )
    status.cost = status.cost.at(datetime.now(UTC))


async def _publish_report(
    workspace: Workspace, status: WorkspaceStatus, adapter: TunedAdapter | None
) -> None:
    history = adapter.metrics.history if adapter else ()
    text = run_report(f"Run of {workspace}", status, history, curve=loss_curve(history))
    await acreate_markdown_artifact(text, key="report", description=f"Report of {workspace}")
