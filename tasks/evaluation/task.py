"""Step `evaluate`: whether a tuned adapter is good enough to take the place of what serves."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.contract.adapter_history import AdapterRecord
from tasks.contract.evaluation_data import EVALUATION_DATA_ANNOTATION
from tasks.contract.gate import Gate, Metric
from tasks.contract.gate_command import GateCommand, gate_command_of
from tasks.contract.programs.evaluation import CommandResult, EvaluationResult, Measured
from tasks.contract.programs.image import PullResult
from tasks.contract.steps import FETCH_SERVING, MEASURE, SCORE, StepName
from tasks.contract.workspace import Workspace
from tasks.evaluation.candidate_pod import gate_of
from tasks.evaluation.sanity import faults
from tasks.evaluation.scores import with_scores
from tasks.evaluation.verdict import Values, Verdict, judge
from tasks.platform.base import Pod
from tasks.settings import settings
from tasks.steps import Limit, recorded_step, run_container


@task(
    name=FETCH_SERVING,
    task_run_name=f"{FETCH_SERVING} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def fetch_serving(workspace: Workspace, pod: Pod) -> None:
    """The adapter that serves as a folder of the candidate's pod; nothing where none serves."""
    if pod.has(FETCH_SERVING):
        await run_container(
            workspace, pod, FETCH_SERVING, answers=PullResult, step=StepName.EVALUATE
        )


@task(
    name=StepName.EVALUATE.value,
    task_run_name=f"{StepName.EVALUATE} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def evaluate_adapters(
    workspace: Workspace,
    pod: Pod,
    *,
    candidate_name: str,
    serving_name: str | None = None,
    last_measured: AdapterRecord | None = None,
) -> Verdict:
    """The gate's verdict on the adapter that the candidate's pod has tuned, beside what serves.

    Args: serving_name: None = no adapter serves. last_measured: the adapter that was measured
    before this one; None = none was.
    Raises: InvalidWorkspace: the gate cannot be read. GateCommandFailed, GateCommandUnusable,
    DeadlineExceeded: of the gate's command.
    """
    gate, command = gate_of(workspace), gate_command_of(workspace.metadata.annotations)
    async with recorded_step(workspace, StepName.EVALUATE) as step:
        result = await run_container(
            workspace, pod, MEASURE, answers=EvaluationResult, step=StepName.EVALUATE
        )
        if command:
            said = await _score(workspace, pod, command)
            result = with_scores(result, said, gate=gate, command=command)
        result = replace(result, notes=(*result.notes, told_of_rows(workspace)))
        verdict = as_baseline(
            verdict_on(result, gate, candidate_name=candidate_name, serving_name=serving_name),
            result,
            last_measured=last_measured,
            name=workspace.metadata.name,
        )
        step.detail = "; ".join((verdict.reason, *result.notes))
    await acreate_markdown_artifact(
        comparison_table(result, verdict, gate),
        key="evaluation",
        description=f"{candidate_name} of {workspace}",
    )
    return verdict


async def _score(workspace: Workspace, pod: Pod, command: GateCommand) -> str:
    """The line in which the gate's command has told its scores; empty = it has told none.

    Raises: GateCommandFailed, GateCommandUnusable, DeadlineExceeded.
    """
    limit = Limit(
        seconds=settings().gate_command_timeout_s,
        whose=str(command),
        setting="GATE_COMMAND_TIMEOUT_S",
    )
    told = await run_container(
        workspace, pod, SCORE, answers=CommandResult, step=StepName.EVALUATE, limit=limit
    )
    return told.said


def verdict_on(
    result: EvaluationResult, gate: Gate, *, candidate_name: str, serving_name: str | None
) -> Verdict:
    """The gate's word on what was measured."""
    serving = result.serving
    return judge(
        gate,
        candidate=_values(result.candidate),
        serving=_values(serving) if serving else None,
        base=_values(result.base),
        candidate_name=candidate_name,
        serving_name=serving_name,
        faults=faults(result.candidate.sanity, (serving or result.base).sanity),
    )


def as_baseline(
    verdict: Verdict, result: EvaluationResult, *, last_measured: AdapterRecord | None, name: str
) -> Verdict:
    """The verdict with the rows that it is on, and that they are others than last time, if so.

    Args: last_measured: None = nothing was measured before. name: the Workspace's.
    """
    digest, reason = result.rows_digest if result.candidate.losses else "", verdict.reason
    if digest and last_measured and last_measured.measured_rows != digest:
        reason += f"; measured on other rows than {name}@{last_measured.number} was: a new baseline"
    return replace(verdict, reason=reason, rows_digest=digest)


def told_of_rows(workspace: Workspace) -> str:
    """Whose rows the candidate is measured on."""
    if EVALUATION_DATA_ANNOTATION in workspace.metadata.annotations:
        return f"measured on the rows that annotation {EVALUATION_DATA_ANNOTATION} names"
    return (
        "measured on rows held out of the candidate's own data, so that bad data measures itself; "
        f"annotation {EVALUATION_DATA_ANNOTATION} names rows that stay"
    )


def _values(measured: Measured) -> Values:
    return {
        Metric.LOSS: measured.losses,
        Metric.EXACT_MATCH: measured.exact_match,
        Metric.ROUGE_L: measured.rouge_l,
        Metric.JUDGE: measured.grades,
        Metric.COMMAND: measured.scores,
    }


def comparison_table(result: EvaluationResult, verdict: Verdict, gate: Gate) -> str:
    """The models side by side, as Markdown, under the verdict."""
    models = {"base model": result.base, "serving": result.serving, "candidate": result.candidate}
    rows = "\n".join(_row(name, measured) for name, measured in models.items() if measured)
    heading = (
        "| | loss | exact match | ROUGE-L | judge | command | answers that stop |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    return (
        f"{verdict.reason}\n\n{heading}\n{rows}\n\n"
        f"Loss on {len(result.candidate.losses)} rows that none was trained on "
        f"(`{result.rows_digest[:12]}`), the rest on {result.candidate.sanity.asked} written "
        f"answers. Gate: `{gate}`." + "".join(f"\n\nNote: {note}." for note in result.notes)
    )


def _row(name: str, measured: Measured) -> str:
    sanity = measured.sanity
    figures = (
        _mean(measured.losses),
        _mean(measured.exact_match),
        _mean(measured.rouge_l),
        _mean(measured.grades),
        _mean(measured.scores),
        f"{sanity.asked - sanity.endless} of {sanity.asked}",
    )
    return f"| {name} | {' | '.join(figures)} |"


def _mean(values: Sequence[float] | float) -> str:
    if isinstance(values, float):
        return f"{values:.3f}"
    return f"{fmean(values):.3f}" if values else "-"
