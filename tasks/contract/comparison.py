"""Two models on the same rows: how much better one is, and how sure that is.

The interval is a paired bootstrap's: rows are drawn anew, each with both of its values, so that
what makes a row hard for both counts for neither. Without numpy, which the control side lacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from tasks.contract.gate import Metric

_DRAWS = 2000
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a metric says of a candidate beside a reference, on rows that both have answered.

    rows: 0 = only totals are known. difference: candidate less reference, in the metric's unit;
    low, high: its 95 % interval; of totals, which have none, the difference itself.
    """

    metric: Metric
    rows: int
    candidate: float
    reference: float
    difference: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """How much better the candidate is; negative where it is worse."""
        return -self.difference if self.metric.lower_is_better else self.difference

    @property
    def sure_gain(self) -> float:
        """The least by which it is better, as far as the interval knows."""
        return -self.high if self.metric.lower_is_better else self.low

    @property
    def most_gain(self) -> float:
        """The most by which it is better, as far as the interval knows."""
        return -self.low if self.metric.lower_is_better else self.high

    def __str__(self) -> str:
        return self.told()

    def told(self, *, whose: str = "") -> str:
        """The comparison as a sentence; whose: what the reference is, where that is not plain."""
        words = f"candidate's {self.metric.figure} {self.candidate:.3f} is"
        on_rows = f" on {self.rows} rows" if self.rows else ""
        than = " ".join(filter(None, (whose, f"{self.reference:.3f}{on_rows}")))
        interval = "(no interval: only totals are known)"
        if self.rows:
            interval = f"(95 % interval {self.low:+.3f} to {self.high:+.3f})"
        if round(self.gain, 3) == 0:
            return f"{words} the same as {than} {interval}"
        verdict = "better" if self.gain > 0 else "worse"
        return f"{words} {abs(self.gain):.3f} {verdict} than {than} {interval}"


def compare(
    candidate: Sequence[float],
    reference: Sequence[float],
    *,
    metric: Metric,
    weights: Sequence[float] | None = None,
    seed: int = _SEED,
) -> Comparison:
    """The candidate beside the reference, by values of the same rows in the same order.

    Args: weights: how much each row counts, such as its tokens; None = each the same.
    Raises: ValueError: no rows, or other ones.
    """
    if not candidate:
        raise ValueError("there are no rows to compare on")
    differences = [one - other for one, other in zip(candidate, reference, strict=True)]
    low, high = _interval(differences, weights, seed=seed)
    return Comparison(
        metric=metric,
        rows=len(differences),
        candidate=fmean(candidate, weights),
        reference=fmean(reference, weights),
        difference=fmean(differences, weights),
        low=low,
        high=high,
    )


def compare_totals(candidate: float, reference: float, *, metric: Metric) -> Comparison:
    """The candidate beside the reference, where nothing is known of single rows."""
    difference = candidate - reference
    return Comparison(
        metric=metric,
        rows=0,
        candidate=candidate,
        reference=reference,
        difference=difference,
        low=difference,
        high=difference,
    )


def _interval(
    differences: Sequence[float], weights: Sequence[float] | None, *, seed: int
) -> tuple[float, float]:
    random, count = Random(seed), len(differences)
    rows = list(zip(differences, weights or [1.0] * count, strict=True))
    draws = (random.choices(rows, k=count) for _ in range(_DRAWS))
    means = sorted(fmean(*zip(*draw, strict=True)) for draw in draws)
    return means[round(0.025 * (_DRAWS - 1))], means[round(0.975 * (_DRAWS - 1))]
