"""What a gate lets pass, what it keeps out, and that a person reads why."""

from random import Random
from statistics import fmean
from typing import Any

from tasks.contract.gate import Gate, Metric
from tasks.evaluation.verdict import Verdict, judge


def loss(mean: float, *, noise: float, rows: int) -> dict[Metric, list[float]]:
    """Values of exactly this mean; every second row is hard for all models."""
    random = Random(str(mean))
    off = [random.uniform(-noise, noise) for _ in range(rows)]
    values = [mean + (row % 2) + one for row, one in enumerate(off)]
    return {Metric.LOSS: [value - fmean(values) + mean for value in values]}


def verdict(
    candidate: float,
    *,
    gate: Gate | None = None,
    serving: float | None = 2.33,
    base: float = 3.0,
    noise: float = 0.1,
    rows: int = 64,
    **changes: Any,
) -> Verdict:
    values = {
        "candidate": loss(candidate, noise=noise, rows=rows),
        "serving": None if serving is None else loss(serving, noise=noise, rows=rows),
        "base": loss(base, noise=noise, rows=rows),
        "candidate_name": "quickstart@4",
        "serving_name": None if serving is None else "quickstart@3",
    }
    return judge(gate or Gate(), **(values | changes))


def test_a_worse_candidate_is_kept_out_and_told_by_how_much() -> None:
    told = verdict(2.41)
    assert not told.passed
    assert told.reason.startswith("kept quickstart@3: candidate's loss 2.410 is 0.080 worse")
    assert " than 2.330 on 64 rows (95 % interval +0.0" in told.reason


def test_a_better_candidate_passes() -> None:
    told = verdict(2.20)
    assert told.passed
    assert told.reason.startswith("quickstart@4 passes: candidate's loss 2.200 is 0.130 better")


def test_a_gain_within_the_noise_is_not_believed() -> None:
    told = verdict(2.32, noise=1.0, rows=20)
    assert not told.passed
    assert told.reason.endswith("which does not show that it is better")


def test_a_gain_smaller_than_the_margin_is_not_enough() -> None:
    gate = Gate(margin=0.2)
    told = verdict(2.20, gate=gate)
    assert not told.passed
    assert told.reason.endswith("which does not show a gain of 0.2")
    assert verdict(2.0, gate=gate).passed


def test_a_negative_margin_lets_a_candidate_be_a_little_worse() -> None:
    gate = Gate(margin=-0.2)
    assert verdict(2.38, gate=gate).passed
    assert not verdict(2.60, gate=gate).passed


def test_nothing_is_believed_on_fewer_rows_than_the_gate_wants() -> None:
    told = verdict(1.0, rows=19)
    assert told.reason == (
        "kept quickstart@3: no difference on 19 rows is believed, the gate wants 20"
    )
    assert verdict(1.0, rows=20).passed


def test_what_is_worse_than_the_base_model_does_not_pass_though_it_beats_what_serves() -> None:
    told = verdict(3.1, serving=3.5)
    assert not told.passed
    assert "worse than the base model's 3.000" in told.reason
    assert told.reason.endswith("which is the floor")
    assert verdict(3.1, serving=3.5, gate=Gate(floor=False)).passed


def test_the_first_adapter_is_compared_with_the_base_model() -> None:
    assert verdict(2.0, serving=None).passed
    told = verdict(3.1, serving=None)
    assert told.reason.startswith("kept the base model: candidate's loss 3.100 is")


def test_answers_that_are_not_sound_keep_a_candidate_out_whatever_its_loss() -> None:
    told = verdict(1.0, faults=["3 of 8 repeat themselves"])
    assert told.reason == (
        "kept quickstart@3: candidate's answers are not sound: 3 of 8 repeat themselves"
    )


def test_no_values_of_the_metric_are_too_few_rows() -> None:
    told = verdict(1.0, gate=Gate(metric=Metric.ROUGE_L))
    assert told.reason.endswith("no difference on 0 rows is believed, the gate wants 20")
