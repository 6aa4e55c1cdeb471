"""What the step asks of its pod, and what a person reads of the answer."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contract.adapter_history import AdapterRecord
from tasks.contract.artifacts import Node, PublishedImage
from tasks.contract.gate import Gate, Metric
from tasks.contract.judge import Judge
from tasks.contract.programs.evaluation import (
    CommandConfig,
    EvaluationConfig,
    EvaluationResult,
    Measured,
    Sanity,
)
from tasks.contract.programs.image import PullConfig
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.workspace import Manifests, parse_workspace
from tasks.evaluation.candidate_pod import candidate_pod
from tasks.evaluation.task import as_baseline, comparison_table, told_of_rows, verdict_on
from tasks.platform.current import current_platform, local_platform
from tasks.settings import settings
from tests.builders import tuning_manifest, tuning_workspace

NODE = Node(name="here", cores=2, memory_gib=8, gpus=1)
SERVING = PublishedImage(reference="registry.example.com/a:1", digest="sha256:0")
SOUND = Sanity(asked=8)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    caches = (settings, current_platform, local_platform)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


async def told(gate: Gate, serving: PublishedImage | None) -> tuple[TuningConfig, EvaluationConfig]:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaitoflow.io/gate": str(gate)}
    workspace = parse_workspace(manifest, source="test")
    pod = await candidate_pod(workspace, NODE, number=2, serving=serving, push=False)
    measurement, tuning = pod.containers[-1].config, pod.container("tune").config
    assert isinstance(measurement, EvaluationConfig)
    assert isinstance(tuning, TuningConfig)
    return tuning, measurement


async def test_what_was_tuned_is_measured_where_it_lies_on_the_rows_that_were_held_out() -> None:
    tuning, measurement = await told(Gate(), None)
    assert measurement.candidate == tuning.results_dir / "adapter"
    assert measurement.rows_file == tuning.results_dir / "evaluation.jsonl"
    assert (measurement.weights_dir, measurement.method) == (tuning.weights_dir, "qlora")
    assert (measurement.serving, measurement.gpus) == (None, 1)


async def test_what_serves_is_pulled_by_its_digest() -> None:
    pod = await candidate_pod(tuning_workspace(), NODE, number=2, serving=SERVING, push=False)
    pull, measurement = pod.container("fetch-serving").config, pod.containers[-1].config
    assert isinstance(pull, PullConfig)
    assert pull.reference == "registry.example.com/a:1@sha256:0"
    assert pull.target_dir == measurement.serving == pod.container("tune").config.serving


async def test_what_serves_is_fetched_before_a_training_is_spent_on_it() -> None:
    pod = await candidate_pod(tuning_workspace(), NODE, number=2, serving=SERVING, push=False)
    names = [container.name for container in pod.containers]
    order = ["fetch-weights", "fetch-dataset", "fetch-serving", "tune", "push-image", "measure"]
    assert names == order


@pytest.mark.parametrize(
    ("gate", "rows", "answers"),
    [
        (Gate(), 128, 8),
        (Gate(rows=500), 500, 8),
        (Gate(metric=Metric.ROUGE_L), 128, 128),
    ],
)
async def test_as_many_rows_are_measured_and_asked_as_the_gate_needs(
    gate: Gate, rows: int, answers: int
) -> None:
    _, measurement = await told(gate, None)
    assert (measurement.max_rows, measurement.answers) == (rows, answers)


async def test_a_judge_is_asked_for_as_many_answers_with_the_key_of_its_secret() -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {
        "kaitoflow.io/gate": "judge rows 200",
        "kaitoflow.io/judge": "https://judge.example.com/v1 strict-7b",
    }
    secret = {"metadata": {"name": "tuned-judge-key"}, "stringData": {"key": "canary"}}
    given = Manifests(
        workspace=parse_workspace(manifest, source="test"), secrets={"tuned-judge-key": secret}
    )
    workspace = local_platform().store.apply(given)
    pod = await candidate_pod(workspace, NODE, number=2, serving=None, push=False)
    told = pod.containers[-1].config
    assert isinstance(told, EvaluationConfig)
    assert told.judge == Judge(url="https://judge.example.com/v1", model="strict-7b")
    assert (told.answers, told.allow_local_addresses) == (200, False)
    assert told.judge_key_file
    assert told.judge_key_file.read_text() == "canary"
    assert told.judge_key_file.stat().st_mode & 0o077 == 0


async def test_nobody_is_asked_to_judge_where_the_gate_s_metric_is_another() -> None:
    _, measurement = await told(Gate(metric=Metric.ROUGE_L), None)
    assert (measurement.judge, measurement.judge_key_file) == (None, None)


@pytest.mark.parametrize("serving", [SERVING, None])
async def test_a_command_scores_what_was_measured_where_it_lies(
    serving: PublishedImage | None,
) -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {
        "kaitoflow.io/gate": "command rows 200",
        "kaitoflow.io/gate-command": "ghcr.io/example/score:1 python /score.py",
    }
    workspace = parse_workspace(manifest, source="test")
    pod = await candidate_pod(workspace, NODE, number=2, serving=serving, push=False)
    measured, scoring = (pod.container(name).config for name in ("measure", "score"))
    assert isinstance(measured, EvaluationConfig)
    assert isinstance(scoring, CommandConfig)
    assert pod.containers[-1].name == "score"
    assert (scoring.image, scoring.words) == ("ghcr.io/example/score:1", ("python", "/score.py"))
    assert measured.answers == 200
    finds = {
        "KAITOFLOW_GATE_ROWS": measured.answers_file,
        "KAITOFLOW_GATE_WEIGHTS": measured.weights_dir,
        "KAITOFLOW_GATE_CANDIDATE": measured.candidate,
        "KAITOFLOW_GATE_SERVING": measured.serving,
    }
    assert dict(scoring.environment) == {name: str(path) for name, path in finds.items() if path}


async def test_nothing_is_scored_where_the_gate_s_metric_is_another() -> None:
    pod = await candidate_pod(tuning_workspace(), NODE, number=2, serving=None, push=False)
    assert pod.containers[-1].name == "measure"
    assert pod.containers[-1].config.answers_file is None


def test_grades_of_a_judge_are_a_metric_as_the_others_are() -> None:
    def graded(grade: float) -> Measured:
        return Measured(grades=(grade,) * 30, sanity=SOUND)

    measured = EvaluationResult(
        rows_digest="a", base=graded(0.3), candidate=graded(0.8), serving=graded(0.6), seconds=1.0
    )
    gate = Gate(metric=Metric.JUDGE, margin=0.1)
    verdict = verdict_on(measured, gate, candidate_name="a@4", serving_name="a@3")
    assert verdict.reason.startswith("a@4 passes: candidate's grade 0.800 is 0.200 better than")


def model(loss: float, *, sanity: Sanity = SOUND) -> Measured:
    return Measured(losses=(loss,) * 30, exact_match=(0.0, 1.0), rouge_l=(0.5,), sanity=sanity)


def result(candidate: Measured) -> EvaluationResult:
    return EvaluationResult(
        rows_digest="abcdef0123456789",
        base=model(3.0),
        candidate=candidate,
        serving=model(2.33),
        seconds=1.0,
    )


def test_the_comparison_shows_all_models_under_the_verdict() -> None:
    measured = result(model(2.41))
    verdict = verdict_on(measured, Gate(), candidate_name="a@4", serving_name="a@3")
    table = comparison_table(measured, verdict, Gate())
    assert table.startswith("kept a@3: candidate's loss 2.410 is 0.080 worse than 2.330 on 30 rows")
    assert "| serving | 2.330 | 0.500 | 0.500 | - | - | 8 of 8 |" in table
    assert "| candidate | 2.410 | " in table
    assert "Loss on 30 rows that none was trained on (`abcdef012345`)" in table


def record(number: int, rows: str) -> AdapterRecord:
    return AdapterRecord(number=number, image=SERVING, measured_rows=rows)


@pytest.mark.parametrize(
    ("last_measured", "told"),
    [
        (None, ""),
        (record(2, "abcdef0123456789"), ""),
        (record(2, "other"), "; measured on other rows than a@2 was: a new baseline"),
    ],
)
def test_a_measurement_on_other_rows_than_the_last_one_is_told_to_be_a_new_baseline(
    last_measured: AdapterRecord | None, told: str
) -> None:
    measured = result(model(2.41))
    verdict = verdict_on(measured, Gate(), candidate_name="a@4", serving_name="a@3")
    based = as_baseline(verdict, measured, last_measured=last_measured, name="a")
    assert (based.reason, based.rows_digest) == (verdict.reason + told, "abcdef0123456789")
    assert based.passed == verdict.passed


def test_where_no_row_was_measured_there_is_no_baseline() -> None:
    nothing = replace(result(Measured()), serving=Measured(), base=Measured())
    verdict = verdict_on(nothing, Gate(), candidate_name="a@4", serving_name="a@3")
    assert as_baseline(verdict, nothing, last_measured=record(2, "other"), name="a") == verdict


def test_whose_rows_are_measured_is_told() -> None:
    manifest = tuning_manifest()
    assert "rows held out of the candidate's own data" in told_of_rows(tuning_workspace())
    manifest["metadata"]["annotations"] = {"kaitoflow.io/evaluation-data": "https://host/e.jsonl"}
    named = told_of_rows(parse_workspace(manifest, source="test"))
    assert named == "measured on the rows that annotation kaitoflow.io/evaluation-data names"


def test_answers_that_loop_keep_a_candidate_out() -> None:
    measured = result(model(1.0, sanity=Sanity(asked=8, looping=3)))
    verdict = verdict_on(measured, Gate(), candidate_name="a@4", serving_name="a@3")
    assert verdict.reason.endswith("candidate's answers are not sound: 3 of 8 repeat themselves")
