"""The scores of a gate's command are a metric as the others are; nothing else passes for them."""

from dataclasses import replace

import pytest

from tasks.contract.errors import GateCommandUnusable
from tasks.contract.gate import Gate, Metric
from tasks.contract.gate_command import GateCommand
from tasks.contract.programs.evaluation import EvaluationResult, Measured
from tasks.evaluation.scores import with_scores
from tasks.evaluation.task import comparison_table, verdict_on
from tasks.evaluation.verdict import Verdict

COMMAND = GateCommand(image="ghcr.io/example/score:1", words=("score",))
GATE = Gate(metric=Metric.COMMAND, rows=4)
MEASURED = EvaluationResult(
    rows_digest="abc", base=Measured(), candidate=Measured(), serving=Measured(), seconds=1.0
)


def scored(
    said: str, *, gate: Gate = GATE, measured: EvaluationResult = MEASURED
) -> EvaluationResult:
    return with_scores(measured, said, gate=gate, command=COMMAND)


def verdict(said: str, *, gate: Gate = GATE) -> Verdict:
    measured = scored(said, gate=gate)
    return verdict_on(measured, gate, candidate_name="a@4", serving_name="a@3")


def test_scores_of_each_row_are_compared_with_an_interval() -> None:
    said = '{"candidate": [1, 1, 1, 0.8], "serving": [0.5, 0.6, 0.4, 0.3], "base": [0, 0, 0, 0]}'
    told = verdict(said)
    assert told.passed
    assert told.reason.startswith(
        "a@4 passes: candidate's score 0.950 is 0.500 better than 0.450 on 4 rows (95 % interval +"
    )


def test_a_gain_on_few_rows_is_not_believed() -> None:
    told = verdict('{"candidate": [1, 1], "serving": [0, 0], "base": [0, 0]}')
    assert told.reason == "kept a@3: no difference on 2 rows is believed, the gate wants 4"


def test_totals_are_compared_and_told_to_have_no_interval() -> None:
    told = verdict('{"candidate": 0.61, "serving": 0.58, "base": 0.4}')
    assert told.passed
    assert told.reason == (
        "a@4 passes: candidate's score 0.610 is 0.030 better than 0.580 "
        "(no interval: only totals are known)"
    )


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (0.58, "is the same as 0.580 (no interval: only totals are known), which does not show"),
        (0.6, "0.020 better than 0.580 (no interval: only totals are known), which does not show"),
        (0.5, "0.080 worse than 0.580"),
        (0.3, "worse than the base model's 0.400 (no interval: only totals are known), which is"),
    ],
)
def test_totals_have_to_gain_more_than_the_margin(candidate: float, words: str) -> None:
    gate = replace(GATE, margin=0.03 if candidate == 0.6 else 0.0)
    told = verdict(f'{{"candidate": {candidate}, "serving": 0.58, "base": 0.4}}', gate=gate)
    assert not told.passed
    assert words in told.reason


def test_a_gate_without_a_floor_needs_no_scores_of_the_base_model() -> None:
    gate = replace(GATE, floor=False)
    assert verdict('{"candidate": 2, "serving": 1}', gate=gate).passed
    with pytest.raises(GateCommandUnusable, match="no scores of base; floor none"):
        scored('{"candidate": 2, "serving": 1}')


def test_the_first_adapter_is_scored_beside_the_base_model_alone() -> None:
    first = replace(MEASURED, serving=None)
    told = scored('{"candidate": 2, "base": 1}', gate=replace(GATE, floor=False), measured=first)
    assert (told.candidate.scores, told.serving, told.base.scores) == (2.0, None, 1.0)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", "it has printed no line that begins with {"),
        ("{candidate", "its line with scores is no JSON"),
        ('{"candidate": 1}', "it tells no scores of serving and base"),
        ('{"candidate": [], "serving": [], "base": []}', "its scores of candidate are none"),
        ('{"candidate": "1", "serving": 1, "base": 1}', 'of candidate it tells "1", which is no'),
        ('{"candidate": 1, "serving": true, "base": 1}', "of serving it tells true, which is no"),
        ('{"candidate": 1, "serving": 1, "base": null}', "of base it tells null, which is no"),
        ('{"candidate": NaN, "serving": 1, "base": 1}', "of candidate it tells NaN, which is no"),
        ('{"candidate": [1, {}], "serving": [1, 2], "base": [1, 2]}', "it tells {}, which is no"),
        (
            '{"candidate": [1, 2], "serving": [1], "base": 1}',
            "(2 of candidate, 1 of serving, one number of base)",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_with_how_scores_are_told(said: str, found: str) -> None:
    with pytest.raises(GateCommandUnusable) as refused:
        scored(said)
    assert refused.value.asked == "score in ghcr.io/example/score:1 was to score the candidate"
    assert found in refused.value.found
    assert '{"candidate": [0.5, 1]' in refused.value.fix


def test_the_comparison_shows_the_scores_of_each_model() -> None:
    said = '{"candidate": [1, 1, 1, 1], "serving": [0, 0, 0, 1], "base": [0, 0, 0, 0]}'
    table = comparison_table(scored(said), verdict(said), GATE)
    assert "| candidate | - | - | - | - | 1.000 | 0 of 0 |" in table
    assert "| serving | - | - | - | - | 0.250 | 0 of 0 |" in table
