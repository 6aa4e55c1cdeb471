"""A person is asked whether an adapter is to serve, by Prefect's own means.

The run is suspended: nothing of it is left but Prefect's record, until somebody resumes it with a
word, in Prefect's UI. Then it begins anew, is told the word at the same place, and carries it out.
So a kill of worker, watcher or server costs nothing, and the Workspace may be run meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows.adapter_run import end_candidate, expect_at_rest, recorded_adapter_run
from flows.promote_adapter import find_workspace, have_serve, keep_out
from flows.questions import APPROVE_FLOW
from flows.served import expect_served
from tasks.contract.adapter_history import AdapterRecord, Fate
from tasks.contract.errors import RunInProgress, RunSuperseded
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.platform.current import current_platform
from tasks.report import comparison_report

_LOOK_AGAIN_S = 10.0

Decision = Callable[[Workspace, AdapterRecord], Awaitable[None]]


class Word(RunInput):
    """What a person says of an adapter."""

    approve: Literal["yes", "no"] = Field(
        title="Approve",
        description="yes: it takes the place of what serves. no: it is kept out. To cancel the run"
        " instead says neither: it is asked again.",
    )
    note: str = Field(default="", title="Note", description="Why, to be read in the history.")
    name: str = Field(
        default="", title="Your name", description="Who decides, to be read in the history."
    )


@flow(
    name=APPROVE_FLOW,
    flow_run_name="approve {namespace}/{name}@{number}",
    on_cancellation=[end_candidate],
)
async def approve_adapter(
    name: str, *, namespace: str = "default", number: int, is_time_up: bool = False
) -> Any:
    """Ask a person whether an adapter is to serve, and do as is said.

    Args:
        name: of the Workspace.
        namespace: where it is.
        number: of the adapter.
        is_time_up: nobody is asked any more, and the adapter is kept out.
    """
    expect_served(ObjectMeta(name=name, namespace=namespace))
    workspace = await find_workspace(namespace, name)
    adapters = (await current_platform().read_status(workspace)).adapters
    candidate = adapters.find(number)
    if candidate.fate is not Fate.WAITING:
        return _decided(candidate)
    if is_time_up:
        return await _carry_out(workspace.metadata, number, _keep_what_serves)
    text = comparison_report(workspace.metadata, candidate, adapters.serving)
    await acreate_markdown_artifact(text, key="comparison", description=f"{workspace}@{number}")
    asked = Word.with_initial_data(description=text)
    word = await asuspend_flow_run(wait_for_input=asked, key="word")

    async def decide(workspace: Workspace, candidate: AdapterRecord) -> None:
        by = word.name.strip() or "Prefect"
        if word.approve == "yes":
            await have_serve(workspace, candidate, by=by, why=word.note or "approved")
        else:
            await keep_out(workspace, candidate, by=by, why=word.note or "refused")

    return await _carry_out(workspace.metadata, number, decide)


async def _carry_out(meta: ObjectMeta, number: int, decide: Decision) -> Any:
    """The run's end, once the Workspace is at rest and the adapter's fate is decided.

    The word waits for a run that is at work, not the other way round; it is void where that run, or
    somebody else, has decided.
    """
    while True:
        workspace = await find_workspace(meta.namespace, meta.name)
        try:
            await expect_at_rest(workspace, APPROVE_FLOW)
            async with recorded_adapter_run(workspace, APPROVE_FLOW):
                candidate = (await current_platform().read_status(workspace)).adapters.find(number)
                if candidate.fate is Fate.WAITING:
                    await decide(workspace, candidate)
                status = await current_platform().read_status(workspace)
                return _decided(status.adapters.find(number))
        except (RunInProgress, RunSuperseded) as error:
            get_run_logger().info("the word waits: %s", error)
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _keep_what_serves(workspace: Workspace, candidate: AdapterRecord) -> None:
    why = f"nobody gave a word until {candidate.answer_by}"
    await keep_out(workspace, candidate, by="time limit", why=why)


def _decided(candidate: AdapterRecord) -> Any:
    said = f"adapter {candidate.number}: {candidate.fate}, by {candidate.by}: {candidate.why}"
    return Completed(name="Decided", message=said)
