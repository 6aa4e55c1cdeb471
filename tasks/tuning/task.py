"""Step `tune`: a LoRA adapter for the base model, trained on the dataset."""

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import Dataset, TunedAdapter, Weights
from tasks.config_map import read_training_config_text
from tasks.platform import current_platform
from tasks.platform.base import Container, PodPaths
from tasks.platform.store import write_atomically
from tasks.status import ConditionType, Progress, WorkspaceStatus
from tasks.steps import again_may_help, change_status, recorded_step, run_container
from tasks.tuning.pod.config import TuningConfig
from tasks.workspace import Workspace


@task(
    name="tune",
    task_run_name="tune {workspace}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=again_may_help,
)
async def tune_model(workspace: Workspace, weights: Weights, dataset: Dataset) -> TunedAdapter:
    """The trained adapter; a run that was interrupted goes on from its last checkpoint."""
    paths = current_platform().paths(workspace, model=weights.model, revision=weights.revision)
    container = Container(
        name="tune",
        program="tasks.tuning.pod",
        config=await _tuning_config(workspace, weights, dataset, paths),
    )
    async with recorded_step(workspace, "tune") as step:
        await change_status(workspace, _job_started)
        result = await run_container(
            workspace, container, step="tune", on_progress=_ProgressArtifact(workspace).show
        )
        step.detail = _summary(result)
        await change_status(workspace, lambda status: _keep_held_out(status, result))
    return TunedAdapter(
        directory=paths.results_dir / "adapter",
        base_model=weights.model,
        base_revision=weights.revision,
        dataset_digest=dataset.digest,
        metrics=result,
    )


async def _tuning_config(
    workspace: Workspace, weights: Weights, dataset: Dataset, paths: PodPaths
) -> TuningConfig:
    assert workspace.tuning
    return TuningConfig(
        weights_dir=weights.directory,
        base_model=weights.model,
        base_revision=weights.revision,
        train_file=dataset.train_file,
        dataset_digest=dataset.digest,
        method=workspace.tuning.method,
        training_config=await _written_config(workspace, paths.config_dir),
        results_dir=paths.results_dir,
        run=str(workspace),
    )


async def _written_config(workspace: Workspace, config_dir: Path) -> Path | None:
    text = await read_training_config_text(workspace)
    if text is None:
        return None
    path = config_dir / "training_config.yaml"
    write_atomically(path, text.encode())
    return path


def _job_started(status: WorkspaceStatus) -> None:
    status.state = "Running"
    status.set_condition(
        ConditionType.JOB_STARTED, status="True", reason="WorkspaceTuningJobStatusStarted"
    )


def _keep_held_out(status: WorkspaceStatus, result: dict[str, Any]) -> None:
    status.held_out = result.get("held_out") or {}


def _summary(result: dict[str, Any]) -> str:
    held_out = result.get("held_out")
    if not held_out:
        return f"loss {result['final_loss']:.3f} after {result['steps']} steps"
    return (
        f"loss on {held_out['rows']} held-out answers "
        f"{held_out['loss_before']:.3f} -> {held_out['loss_after']:.3f} ({result['steps']} steps)"
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
