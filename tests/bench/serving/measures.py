"""Figures out of what clients saw, and how far they spread over repetitions: but arithmetic."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Figures = Mapping[str, float | None]
"""By name; None where no request was answered."""


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it; times are the clock's.

    text_s: when text came. tokens: as the server counts them. failure: why it does not count, in a
    few words; empty = it does.
    """

    asked_s: float
    text_s: tuple[float, ...]
    ended_s: float
    tokens: int
    failure: str = ""

    @property
    def first_token_s(self) -> float:
        """From the request to the first text."""
        return self.text_s[0] - self.asked_s

    @property
    def per_token_s(self) -> float | None:
        """Between two tokens after the first; None for an answer of one.

        To the stream's end, because special tokens bring no text.
        """
        return (self.ended_s - self.text_s[0]) / (self.tokens - 1) if self.tokens > 1 else None

    def longest_gap_s(self, since_s: float, until_s: float) -> float | None:
        """The longest wait for more text, of those that reach into a span; None when none does."""
        gaps = [
            after - before
            for before, after in zip(self.text_s, self.text_s[1:], strict=False)
            if after > since_s and before < until_s
        ]
        return max(gaps, default=None)


@dataclass(frozen=True)
class Outcome:
    """What one repetition came to. failures: how many requests failed, by the reason."""

    figures: Figures
    failures: Counter[str]


@dataclass(frozen=True)
class Spread:
    """Several repetitions of one figure."""

    median: float
    least: float
    most: float


def outcome_of(answers: Sequence[Answer]) -> Outcome:
    """What requests that were sent together came to; those that failed are counted, and no more."""
    good = [answer for answer in answers if not answer.failure]
    tokens = sum(answer.tokens for answer in good)
    first = [answer.first_token_s * 1000 for answer in good]
    between = [each * 1000 for answer in good if (each := answer.per_token_s) is not None]
    figures = {
        "output_tokens_per_s": tokens / _took_s(good) if good else 0.0,
        "ttft_p50_ms": percentile(first, 0.5),
        "ttft_p99_ms": percentile(first, 0.99),
        "tpot_p50_ms": percentile(between, 0.5),
        "tpot_p99_ms": percentile(between, 0.99),
    }
    return Outcome(figures, failures_of(answers))


def failures_of(answers: Sequence[Answer]) -> Counter[str]:
    """How many failed, by the reason."""
    return Counter(answer.failure for answer in answers if answer.failure)


def _took_s(answers: Sequence[Answer]) -> float:
    return max(each.ended_s for each in answers) - min(each.asked_s for each in answers)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so many are not above; None of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


def spread(values: Sequence[float | None]) -> Spread | None:
    """Median, least and most of those that are there; None when none is."""
    there = [value for value in values if value is not None]
    return Spread(median(there), min(there), max(there)) if there else None


def spreads(repetitions: Sequence[Figures]) -> dict[str, Spread | None]:
    """The spread of each figure, in the order of the first repetition."""
    names = dict.fromkeys(name for figures in repetitions for name in figures)
    return {name: spread([each.get(name) for each in repetitions]) for name in names}


def ratios(
    ours: Sequence[Outcome | None], theirs: Sequence[Outcome | None]
) -> dict[str, Spread | None]:
    """Ours to theirs, repetition by repetition: what slows the machine down slows both down.

    None in a place: not measured in that repetition.
    """
    pairs = [
        (our.figures, their.figures)
        for our, their in zip(ours, theirs, strict=True)
        if our and their
    ]
    names = dict.fromkeys(name for our, their in pairs for name in our if name in their)
    return {
        name: spread([_ratio(our[name], their[name]) for our, their in pairs]) for name in names
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
