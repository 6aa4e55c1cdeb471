"""Step `download`: the base model's weights and the dataset, verified and counted."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config_map import TRAINING_CONFIG_KEY
from tasks.contract.artifacts import Dataset
from tasks.contract.programs.dataset import DatasetReport, UnusedColumn
from tasks.contract.programs.image import PullResult
from tasks.contract.programs.serving import WeightsResult
from tasks.contract.steps import (
    FETCH_DATASET,
    FETCH_EVALUATION,
    FETCH_WEIGHTS,
    StepName,
    step_of,
)
from tasks.contract.training_config import parse_training_config
from tasks.contract.workspace import Workspace
from tasks.estimate.advice import advised_rank, advised_steps
from tasks.platform.base import Pod
from tasks.pods import preset_of
from tasks.steps import recorded_step, run_container

_TOLD_COLUMNS = 8


@task(
    name=StepName.WEIGHTS.value,
    task_run_name=f"{StepName.WEIGHTS} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def fetch_weights(workspace: Workspace, pod: Pod) -> None:
    """The base model's files on the pod's disk; at once when they are there."""
    name = step_of(FETCH_WEIGHTS, workspace, pod=pod.name)
    assert name
    async with recorded_step(workspace, name) as step:
        result = await run_container(
            workspace, pod, FETCH_WEIGHTS, answers=WeightsResult, step=name
        )
        model = preset_of(workspace).model
        commit = f" at {result.commit[:12]}" if result.commit else ""
        step.detail = f"{model}{commit} ({_mib(result.bytes)}, from {result.source})"


@task(
    name=StepName.DOWNLOAD.value,
    task_run_name=f"{StepName.DOWNLOAD} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def download_dataset(workspace: Workspace, pod: Pod) -> Dataset:
    """The dataset's rows, normalised, counted with the model's tokenizer and pinned by digest."""
    async with recorded_step(workspace, StepName.DOWNLOAD) as step:
        for container in pod.containers_between(FETCH_WEIGHTS, FETCH_DATASET):
            name = container.name
            await run_container(workspace, pod, name, answers=PullResult, step=StepName.DOWNLOAD)
        report = await run_container(
            workspace, pod, FETCH_DATASET, answers=DatasetReport, step=StepName.DOWNLOAD
        )
        step.detail = _summary(report) + _advised(workspace, pod, report)
        if pod.has(FETCH_EVALUATION):
            aside = await run_container(
                workspace, pod, FETCH_EVALUATION, answers=DatasetReport, step=StepName.DOWNLOAD
            )
            step.detail += f"; {aside.rows} rows of evaluation data ({aside.digest[:12]})"
    return Dataset(digest=report.digest, rows=report.rows, report=report)


def _summary(report: DatasetReport) -> str:
    tokens = report.tokens
    texts = f" in {report.texts} texts" if report.texts > report.rows else ""
    return (
        f"{report.rows} rows{texts}, {tokens.total} tokens "
        f"(median {tokens.median:.0f}, p95 {tokens.p95:.0f}, max {tokens.max}), "
        f"{report.truncated_rows} truncated, {report.duplicate_rows} duplicates"
        f"{_unlearned(report)}{_unused(report)}"
    )


def _advised(workspace: Workspace, pod: Pod, report: DatasetReport) -> str:
    """What to add of settings that would suit this dataset better; the plan knew its size alone."""
    assert workspace.tuning
    text = pod.files.get(TRAINING_CONFIG_KEY)
    config = parse_training_config(text, method=workspace.tuning.method)
    shape = preset_of(workspace).likely_shape
    advised = (
        advised_rank(config, shape=shape, answer_tokens=report.answer_tokens),
        advised_steps(config, rows=report.texts or report.rows),
    )
    return "".join(f"; {each}" for each in advised if each)


def _unlearned(report: DatasetReport) -> str:
    """What to add of rows that teach less than they say."""
    advised = report.advised_max_length
    length = f"max_length {report.max_length}"
    told = {
        f"teach nothing at {length}"
        + (f" (TrainingArguments.max_length: {advised} keeps more)" if advised else ""): (
            report.silent_rows
        ),
        f"have an answer that is cut off at {length}": report.cut_answer_rows,
        "have an answer without a letter or digit": report.bare_answer_rows,
        "say that they are not to be learned and are left out": report.left_out_rows,
    }
    return "".join(f"; {rows} rows {what}" for what, rows in told.items() if rows)


def _unused(report: DatasetReport) -> str:
    """What to add of columns that nothing is learned from."""
    columns = report.unused_columns
    if not columns:
        return ""
    more = f" and {len(columns) - _TOLD_COLUMNS} more" if len(columns) > _TOLD_COLUMNS else ""
    named = ", ".join(_named(column, report.rows) for column in columns[:_TOLD_COLUMNS])
    return f"; not used: {named}{more}"


def _named(column: UnusedColumn, rows: int) -> str:
    share = "" if column.rows == rows else f" (in {column.rows} rows)"
    return f"{column.name[:40]}{share}" + (f": {column.remedy}" if column.remedy else "")


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
