"""What a person may write of a gate, and that anything else is refused with what to write."""

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.gate import Gate, Metric, parse_gate


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        (None, Gate(metric=Metric.LOSS, margin=0.0, rows=20, floor=True)),
        ("  ", Gate()),
        ("rouge-l", Gate(metric=Metric.ROUGE_L)),
        ("judge rows 32", Gate(metric=Metric.JUDGE, rows=32)),
        ("command margin 0.05", Gate(metric=Metric.COMMAND, margin=0.05)),
        ("loss margin 0.02 rows 32 floor base", Gate(margin=0.02, rows=32)),
        (
            "exact-match floor none\n margin -0.1",
            Gate(metric=Metric.EXACT_MATCH, margin=-0.1, floor=False),
        ),
    ],
)
def test_a_gate_is_a_metric_and_what_is_other_than_the_default(
    text: str | None, gate: Gate
) -> None:
    assert parse_gate(text) == gate


def test_a_gate_is_shown_as_it_may_be_written() -> None:
    gate = Gate(metric=Metric.ROUGE_L, margin=-0.015, rows=64, floor=False)
    assert parse_gate(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("los", "no metric 'los' (did you mean loss?)"),
        ("accuracy", "there are loss, exact-match, rouge-l, judge, command"),
        ("lm-eval", "lm-eval is no metric by itself, the metrics are loss, exact-match, rouge-l"),
        ("loss margn 1", "no word 'margn' (did you mean margin?)"),
        ("loss margin", "'margin' stands alone"),
        ("loss margin 1 margin 2", "twice"),
        ("loss margin nan", "margin is 'nan', it must be a number"),
        ("loss rows 1", "it must be a whole number from 2 to 1024"),
        ("loss rows 20.5", "it must be a whole number"),
        ("loss floor serving", "floor is 'serving', it must be base or none"),
    ],
)
def test_any_other_text_is_refused_with_how_a_gate_is_written(text: str, found: str) -> None:
    with pytest.raises(InvalidWorkspace) as refused:
        parse_gate(text)
    assert found in refused.value.found
    assert '"loss margin 0.02 rows 32 floor base"' in refused.value.fix


@pytest.mark.parametrize("harness", ["lm-eval", "lm_eval", "lighteval"])
def test_a_harness_that_people_know_is_refused_with_how_a_command_runs_it(harness: str) -> None:
    with pytest.raises(InvalidWorkspace, match=r"command rows 32.*kaitoflow\.io/gate-command"):
        parse_gate(harness)
