"""How close a written answer comes to the expected one, from 0 to 1."""

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def exact_match(answer: str, expected: str) -> float:
    """1 where the answer is the expected one but for spaces around and between words; else 0."""
    return float(answer.split() == expected.split())


def rouge_l(answer: str, expected: str) -> float:
    """The F1 of the longest common subsequence of words, small letters, without punctuation.

    Of two texts that both have no word, 1.
    """
    said, wanted = _words(answer), _words(expected)
    if not said or not wanted:
        return float(said == wanted)
    common = _common_subsequence(said, wanted)
    return 2 * common / (len(said) + len(wanted))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest one."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for at, candidate in enumerate(other, start=1):
            before, lengths[at] = (
                lengths[at],
                before + 1 if word == candidate else max(lengths[at], lengths[at - 1]),
            )
    return lengths[-1]
