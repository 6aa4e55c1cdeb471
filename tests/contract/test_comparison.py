"""How much better one model is on the same rows, and how sure that is."""

from random import Random

import pytest

from tasks.contract.comparison import compare
from tasks.contract.gate import Metric


def losses(rows: int, *, mean: float, seed: int = 0) -> list[float]:
    """Some rows are far harder than others, as in any dataset."""
    random = Random(seed)
    return [mean + random.uniform(-2, 2) for _ in range(rows)]


def test_what_makes_rows_hard_for_both_does_not_widen_the_interval() -> None:
    reference = losses(64, mean=3.0)
    told = compare([loss - 0.1 for loss in reference], reference, metric=Metric.LOSS)
    assert (told.low, told.high) == pytest.approx((-0.1, -0.1))
    assert told.sure_gain == pytest.approx(0.1)


def test_the_interval_is_as_wide_as_theory_has_it() -> None:
    """Of a mean of n differences with deviation s it is 2 x 1.96 x s / sqrt(n) wide."""
    random = Random(1)
    differences = [random.gauss(0.0, 1.0) for _ in range(400)]
    told = compare(differences, [0.0] * 400, metric=Metric.LOSS)
    assert told.high - told.low == pytest.approx(2 * 1.96 / 400**0.5, rel=0.1)
    assert told.low < told.difference < told.high


def test_the_same_values_give_the_same_interval() -> None:
    one, other = losses(30, mean=2.0, seed=1), losses(30, mean=2.0, seed=2)
    assert compare(one, other, metric=Metric.LOSS) == compare(one, other, metric=Metric.LOSS)


@pytest.mark.parametrize(("metric", "gain"), [(Metric.LOSS, -1.0), (Metric.ROUGE_L, 1.0)])
def test_more_is_worse_of_a_loss_and_better_of_all_else(metric: Metric, gain: float) -> None:
    told = compare([2.0, 2.0], [1.0, 1.0], metric=metric)
    assert (told.gain, told.sure_gain, told.most_gain) == (gain, gain, gain)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (2.41, "candidate's loss 2.410 is 0.080 worse than 2.330 on 64 rows"),
        (2.25, "candidate's loss 2.250 is 0.080 better than 2.330 on 64 rows"),
        (2.3301, "candidate's loss 2.330 is the same as 2.330 on 64 rows"),
    ],
)
def test_a_comparison_is_told_in_a_sentence(candidate: float, words: str) -> None:
    assert str(compare([candidate] * 64, [2.33] * 64, metric=Metric.LOSS)).startswith(words)


def test_other_rows_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare([1.0, 2.0], [1.0], metric=Metric.LOSS)
    with pytest.raises(ValueError, match="no rows"):
        compare([], [], metric=Metric.LOSS)
