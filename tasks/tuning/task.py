"""Step `tune`: a LoRA adapter for the base model, trained on the dataset."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE

from tasks.contract.artifacts import Tuned, TunedAdapter
from tasks.contract.programs.tuning import TuningResult
from tasks.contract.status import ConditionType, Progress, State, WorkspaceStatus
from tasks.contract.steps import TUNE, StepName
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.current import current_platform
from tasks.steps import again_may_help, change_status, recorded_step, run_container
from tasks.tuning.gpu_use import gpu_use


@task(
    name=StepName.TUNE.value,
    task_run_name=f"{StepName.TUNE} {{workspace}}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=again_may_help,
)
async def tune_model(workspace: Workspace, pod: Pod) -> TunedAdapter:
    """The trained adapter; a run that was interrupted goes on from its last checkpoint."""
    async with recorded_step(workspace, StepName.TUNE) as step:
        assert workspace.tuning
        told = f"{workspace.tuning.preset.name} is tuned by {workspace.tuning.method}"
        if pod.candidate is None:
            await change_status(workspace, partial(_job_started, message=told))
        result = await run_container(
            workspace,
            pod,
            TUNE,
            answers=TuningResult,
            step=StepName.TUNE,
            on_progress=_ProgressArtifact(workspace).show,
        )
        status = await current_platform().read_status(workspace)
        used = gpu_use(status, pod, result, datetime.now(UTC))
        step.detail = "; ".join(filter(None, (_summary(result), used)))
        if pod.candidate is None:
            await change_status(workspace, lambda status: _keep_held_out(status, result))
    return TunedAdapter(metrics=result)


@task(
    name=StepName.TUNE.value,
    task_run_name=f"{StepName.TUNE} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def keep_tuned(workspace: Workspace, tuned: Tuned, *, training: str) -> None:
    """The adapter that was tuned before: nothing is trained, and no node is needed.

    Args: training: the digest of all that the training would depend on now.
    """
    async with recorded_step(workspace, StepName.TUNE) as step:
        step.detail = why = tuned.why(training)

        def change(status: WorkspaceStatus) -> None:
            _job_started(status, message=why)
            status.keep_tuned(tuned)

        await change_status(workspace, change)


def _job_started(status: WorkspaceStatus, *, message: str) -> None:
    status.state = State.RUNNING
    status.set_condition(
        ConditionType.JOB_STARTED,
        status="True",
        reason="WorkspaceTuningJobStatusStarted",
        message=message,
    )


def _keep_held_out(status: WorkspaceStatus, result: TuningResult) -> None:
    status.held_out = result.held_out


def _summary(result: TuningResult) -> str:
    weights = [str(result.weights)] if result.weights else []
    return "; ".join((_outcome(result), *_rows_left_out(result), *weights, *result.notes))


def _rows_left_out(result: TuningResult) -> Iterator[str]:
    rows = result.rows
    if rows.resembling:
        yield (
            f"{rows.resembling} of {rows.held_out} held-out rows were not measured: nearly the "
            "same as rows that were trained on"
        )
    if rows.left_out:
        yield (
            f"{rows.left_out} rows were not trained on: the evaluation data asks the same, or has "
            "nearly the same"
        )
    if rows.dropped:
        of = rows.trained + rows.held_out + rows.dropped
        yield f"{rows.dropped} of {of} rows dropped: no answer within max_length"


def _outcome(result: TuningResult) -> str:
    held_out = result.held_out
    if not held_out:
        loss = f"loss {result.final_loss:.3f} after {result.steps} steps"
        missing = result.held_out_missing
        return f"{loss}; held-out answers were not compared: {missing}" if missing else loss
    return (
        f"loss on {held_out.rows} held-out answers "
        f"{held_out.loss_before:.3f} -> {held_out.loss_after:.3f} ({result.steps} steps)"
        f"{held_out.verdict}"
    )


class _ProgressArtifact:
    """The bar in Prefect's UI; made with the first step of training."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._id: UUID | None = None

    async def show(self, progress: Progress) -> None:
        text = f"tune {self._workspace}: step {progress.step} of {progress.steps}"
        if progress.loss is not None:
            text += f", loss {progress.loss:.3f}"
        if self._id is None:
            self._id = await acreate_progress_artifact(
                progress.percent, key="tuning-progress", description=text
            )
        else:
            await aupdate_progress_artifact(self._id, progress.percent, description=text)
