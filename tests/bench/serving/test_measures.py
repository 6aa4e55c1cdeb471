from collections import Counter

import pytest

from tests.bench.serving.measures import (
    Answer,
    Outcome,
    Spread,
    outcome_of,
    percentile,
    ratios,
    spread,
)


def answer(
    *, asked_s: float = 0, first_s: float = 1, ended_s: float = 3, tokens: int = 5
) -> Answer:
    return Answer(asked_s, (first_s, ended_s), ended_s, tokens)


def outcome(**figures: float | None) -> Outcome:
    return Outcome(figures, Counter())


@pytest.mark.parametrize(
    ("share", "value"), [(0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_the_smallest_value_that_so_many_are_not_above(
    share: float, value: int
) -> None:
    assert percentile(range(100, 0, -1), share) == value


def test_of_few_values_the_99th_percentile_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_tokens_per_second_count_from_the_first_request_to_the_last_end() -> None:
    answers = [answer(asked_s=1, ended_s=3), answer(asked_s=2, first_s=3, ended_s=6)]
    assert outcome_of(answers).figures["output_tokens_per_s"] == 10 / 5


def test_waits_are_told_in_milliseconds() -> None:
    figures = outcome_of([answer(first_s=1, ended_s=3, tokens=5)]).figures
    assert figures["ttft_p50_ms"] == 1000
    assert figures["tpot_p50_ms"] == 500


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    assert outcome_of([answer(tokens=1)]).figures["tpot_p50_ms"] is None


def test_a_failed_request_is_counted_by_its_reason_and_changes_no_figure() -> None:
    failed = Answer(0, (), 100, 0, failure="HTTP 429")
    found = outcome_of([answer(), failed, failed])
    assert found.failures == {"HTTP 429": 2}
    assert found.figures == outcome_of([answer()]).figures


def test_where_all_fail_there_is_no_speed_and_nothing_was_waited_for() -> None:
    figures = outcome_of([Answer(0, (), 1, 0, failure="HTTP 500")]).figures
    assert figures["output_tokens_per_s"] == 0
    assert figures["ttft_p50_ms"] is None


def test_a_gap_counts_when_it_reaches_into_the_span() -> None:
    stream = Answer(0, (1.0, 2.0, 5.0, 6.0), 6, 4)
    assert stream.longest_gap_s(4.0, 4.5) == 3.0
    assert stream.longest_gap_s(0.0, 2.0) == 1.0
    assert stream.longest_gap_s(7.0, 8.0) is None


def test_a_spread_leaves_out_what_was_not_measured() -> None:
    assert spread([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([None]) is None


def test_ratios_are_taken_within_a_repetition() -> None:
    ours = [outcome(speed=20.0), outcome(speed=2.0), None]
    theirs = [outcome(speed=10.0), outcome(speed=1.0), outcome(speed=7.0)]
    assert ratios(ours, theirs) == {"speed": Spread(2.0, 2.0, 2.0)}


def test_nothing_is_divided_by_nothing() -> None:
    assert ratios([outcome(wait=2.0)], [outcome(wait=0.0)]) == {"wait": None}
    assert ratios([outcome(wait=2.0)], [outcome(wait=None)]) == {"wait": None}
