"""The example that runs tasks of lm-eval tells what a gate reads; lm-eval itself is not here."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.contract.gate import Gate, Metric
from tasks.contract.gate_command import GateCommand, environment_of
from tasks.contract.programs.evaluation import EvaluationResult, Measured
from tasks.evaluation.scores import with_scores

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "lm_eval_score.py"
NOTHING = EvaluationResult(
    rows_digest="", base=Measured(), candidate=Measured(), serving=Measured(), seconds=0
)


@pytest.fixture
def example() -> ModuleType:
    described = importlib.util.spec_from_file_location("lm_eval_score", EXAMPLE)
    assert described
    assert described.loader
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def sample(question: int, score: float, *, through: str = "none") -> dict[str, Any]:
    """What lm-eval keeps of a question, of which it has other fields, too."""
    return {"doc_id": question, "filter": through, "metrics": ["acc"], "acc": score}


def test_scores_are_in_the_order_of_tasks_and_questions_however_they_were_asked(
    example: ModuleType,
) -> None:
    samples = {"b": [sample(0, 0.5)], "a": [sample(1, 0.0), sample(0, 1.0)]}
    assert example.scores_of(samples, "acc") == [1.0, 0.0, 0.5]


def test_a_question_counts_once_by_the_first_filter_of_its_task(example: ModuleType) -> None:
    samples = {"a": [sample(0, 1.0, through="strict"), sample(0, 0.0, through="flexible")]}
    assert example.scores_of(samples, "acc") == [1.0]


@pytest.mark.parametrize("serving", [Path("/s"), None])
def test_each_model_that_the_gate_names_is_scored_and_read_by_it(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, serving: Path | None
) -> None:
    finds = environment_of(
        rows=Path("/r"), weights=Path("/w"), candidate=Path("/c"), serving=serving
    )
    for name, value in finds:
        monkeypatch.setenv(name, value)
    models = example.models()
    assert models == {
        "candidate": "/c",
        **({"serving": "/s"} if serving else {}),
        "base": None,
    }
    said = json.dumps({model: [1.0, 0.0] for model in models})
    measured = NOTHING if serving else replace(NOTHING, serving=None)
    command = GateCommand(image="ghcr.io/example/lm-eval:1", words=("python",))
    told = with_scores(measured, said, gate=Gate(metric=Metric.COMMAND), command=command)
    assert told.candidate.scores == told.base.scores == (1.0, 0.0)


def test_the_example_needs_nothing_of_ours() -> None:
    text = EXAMPLE.read_text()
    assert not any(f"{word} {ours}" in text for word in ("import", "from") for ours in OURS)


OURS = ("flows", "tasks", "serving")
