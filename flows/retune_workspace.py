"""Retuning: from data that has changed to a better adapter that serves, or to the reason why not.

Every step ensures: a run that was killed is begun again, makes the same candidate, and promotes it
once. What serves is touched by nothing before the gate has let its successor pass.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.utilities.urls import url_for

from flows.adapter_run import end_candidate, recorded_adapter_run, tell
from flows.decide_candidate import decide, try_candidate_out
from flows.lineage import publish_lineage
from flows.make_room import make_room
from flows.pools import CLUSTER_POOL, LOCAL_POOL
from flows.prefect_api import PrefectApi
from flows.promote_adapter import find_workspace
from flows.questions import ask, question
from flows.schedules import RETUNE_FLOW
from flows.served import expect_served
from tasks.contract.adapter_history import AdapterRecord, Beside, Outcome
from tasks.contract.adapter_history import Candidate as Begun
from tasks.contract.artifacts import Node, Plan
from tasks.contract.data_marks import DataMarks, compare
from tasks.contract.errors import InvalidWorkspace, PrefectUnavailable, RunInProgress, TagTaken
from tasks.contract.retuning import expect_own_images
from tasks.contract.status import WorkspaceStatus
from tasks.contract.units import utc_text
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.dataset.task import download_dataset, fetch_weights
from tasks.evaluation.candidate_pod import candidate_pod
from tasks.evaluation.task import evaluate_adapters, fetch_serving
from tasks.evaluation.verdict import Verdict
from tasks.image.task import push_image
from tasks.inference.task import kept_server, resume_server
from tasks.nodes.task import kept_nodes
from tasks.plan.marks import look_at_data
from tasks.plan.task import free_number, plan_candidate
from tasks.platform.base import Pod
from tasks.platform.current import current_platform
from tasks.report import adapters_report
from tasks.settings import settings
from tasks.steps import change_status
from tasks.tuning.making import making_of
from tasks.tuning.task import tune_model


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An adapter that was made, with the gate's word on it."""

    record: AdapterRecord
    verdict: Verdict


@flow(
    name=RETUNE_FLOW,
    flow_run_name="retune {namespace}/{name}",
    on_cancellation=[end_candidate],
)
async def retune_workspace(name: str, *, namespace: str = "default", push: bool = False) -> Any:
    """Tune an adapter from data that has changed, and serve it if the gate lets it pass.

    Args:
        name: of a Workspace that was tuned before.
        namespace: where it is.
        push: send the image to its registry too, instead of only keeping it on this machine's disk.
    """
    expect_served(ObjectMeta(name=name, namespace=namespace))
    workspace = await find_workspace(namespace, name)
    try:
        async with recorded_adapter_run(workspace, RETUNE_FLOW):
            return await retune(workspace, push=push or current_platform().is_cluster)
    except RunInProgress as error:
        return Completed(name="Skipped", message=str(error))


async def retune(workspace: Workspace, *, push: bool) -> Any:
    """What a retuning came to, as Prefect shows it, once the Workspace is this run's alone."""
    adapters = (await expect_tuned(workspace)).adapters
    if adapters.on_trial:  # the run that tries it out was killed
        await try_candidate_out(workspace)
        return Completed(message=await publish_adapters(workspace))
    if adapters.is_overtaken(flow_run.scheduled_start_time, run=str(flow_run.id or "")):
        # Of many that were due while nobody could run them, one is enough.
        why = f"a look that was due later has ended at {adapters.told_at}"
        return Completed(name="Skipped", message=why)
    known = adapters.data
    data = await look_at_data(workspace, settings(), current_platform())
    if (found := compare(known, data)).is_same:
        return await skip(workspace, f"the data {found.why}")
    plan = await plan_candidate(workspace, push=push)
    async with kept_server(workspace):
        pod, candidate = await make_candidate(workspace, plan, data, push=push)
    await resume_server(workspace)
    if candidate:
        await decide(workspace, candidate.record, candidate.verdict)
    # Not before its fate is told: a run that is killed before begins again from what the pod said.
    await current_platform().end(workspace, pod)
    if candidate is None:
        return await skip(workspace, "the data has the same bytes as before")
    await try_candidate_out(workspace)
    return Completed(message=await publish_adapters(workspace))


async def skip(workspace: Workspace, why: str) -> Any:
    """The end of a run that has nothing to tune from."""
    await tell(workspace, f"skipped: {why}", outcome=Outcome.SKIPPED)
    return Completed(name="Skipped", message=why)


async def expect_tuned(workspace: Workspace) -> WorkspaceStatus:
    """The status of a Workspace whose adapter can have a successor, with that adapter in it.

    Raises: InvalidWorkspace.
    """
    expect_own_images(workspace)
    status = await current_platform().read_status(workspace)
    tuned = status.tuned
    if tuned is None or tuned.image is None:
        raise InvalidWorkspace(
            f"{workspace} was to be retuned",
            "it was not tuned yet",
            "run it first (kaitoflow run FILE)",
        )
    return await change_status(
        workspace,
        lambda status: status.adapters.adopt(tuned),
    )


async def make_candidate(
    workspace: Workspace, plan: Plan, data: DataMarks, *, push: bool
) -> tuple[Pod, Candidate | None]:
    """An adapter from the data as it is now, and the pod that has made it.

    None = the data is no other one. What was begun on the same data goes on under its number.
    """
    node, server_ends = await make_room(workspace, plan, is_candidate=True)
    async with kept_nodes(
        workspace, memory_gib=plan.memory_gib, server_ends=server_ends, is_candidate=True
    ):
        before = (await current_platform().read_status(workspace)).adapters
        free = await free_number(workspace, before.next_number, push=push)
        status = await change_status(workspace, lambda status: _begin(status, data, free))
        begun, serving = status.adapters.candidate, status.adapters.serving
        assert begun
        pod = await candidate_pod(
            workspace,
            node,
            number=begun.number,
            begun_by=begun.begun_by,
            serving=serving.image if serving else None,
            push=push,
            dataset_gib=plan.dataset_gib,
        )
        return pod, await tune_and_measure(workspace, node, pod, begun, status)


async def tune_and_measure(
    workspace: Workspace, node: Node, pod: Pod, begun: Begun, before: WorkspaceStatus
) -> Candidate | None:
    """The candidate's record and the gate's word; None = its data is that of the last one.

    Args: before: the status with which it was begun.
    """
    name, known, serving = workspace.metadata.name, before.adapters.data, before.adapters.serving
    assert before.tuned
    await fetch_weights(workspace, pod)
    dataset = await download_dataset(workspace, pod)
    data = begun.data.with_digest(dataset.digest)
    if known and known.digest == dataset.digest:
        await change_status(workspace, lambda status: status.adapters.drop_candidate(data))
        return None
    await fetch_serving(workspace, pod)
    adapter = await tune_model(workspace, pod)
    try:
        image = await push_image(workspace, pod)
    except TagTaken:
        await change_status(workspace, lambda status: status.adapters.give_up_candidate())
        raise
    await change_status(workspace, lambda status: _has_read(status, data))
    verdict = await evaluate_adapters(
        workspace,
        pod,
        candidate_name=f"{name}@{begun.number}",
        serving_name=f"{name}@{serving.number}" if serving else None,
        last_measured=before.adapters.last_measured,
    )
    beside = None
    if serving and verdict.with_serving:
        beside = Beside(number=serving.number, comparison=verdict.with_serving)
    record = AdapterRecord(
        number=begun.number,
        image=image,
        training=before.tuned.training,
        data=dataset.digest,
        generation=workspace.metadata.generation,
        held_out=adapter.metrics.held_out,
        making=making_of(
            workspace,
            pod,
            dataset,
            adapter,
            run=str(flow_run.id or ""),
            node=node.name,
            machines=before.cost.machines,
        ),
        beside=beside,
        measured_rows=verdict.rows_digest,
        tuned=utc_text(datetime.now(UTC)),
    )
    return Candidate(record=record, verdict=verdict)


def _begin(status: WorkspaceStatus, data: DataMarks, free: int) -> None:
    status.adapters.begin(data, run=str(flow_run.id or ""), free=free)


def _has_read(status: WorkspaceStatus, data: DataMarks) -> None:
    assert status.adapters.candidate
    status.adapters.candidate.data = data


async def publish_adapters(workspace: Workspace) -> str:
    """What the retuning came to, in one line, and the adapters side by side in Prefect's UI."""
    status = await current_platform().read_status(workspace)
    text = adapters_report(f"Adapters of {workspace}", status.adapters)
    await acreate_markdown_artifact(text, key="adapters", description=f"Adapters of {workspace}")
    await publish_lineage(workspace, status)
    if candidate := status.adapters.waiting:
        await link_question(workspace, candidate)
    return status.adapters.told


async def link_question(workspace: Workspace, candidate: AdapterRecord) -> None:
    """Have a person asked whether a candidate is to serve, and the question one click away.

    Where it cannot be asked now, `keep_questions` does so later.
    """
    pool = CLUSTER_POOL if current_platform().is_cluster else LOCAL_POOL
    try:
        async with PrefectApi(waits_s=()) as api:
            run = await ask(api, pool, question(workspace.metadata, candidate.number))
    except PrefectUnavailable as error:
        get_run_logger().info("nobody is asked yet: %s", error)
        return
    if run and (url := url_for("flow-run", obj_id=run.id)):
        about = f"Whether {workspace}@{candidate.number} is to serve"
        await acreate_link_artifact(
            url, link_text="approve or refuse", key="approval", description=about
        )
