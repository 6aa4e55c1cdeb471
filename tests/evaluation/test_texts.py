"""How close an answer comes to the expected one."""

import pytest

from tasks.evaluation.texts import exact_match, rouge_l


@pytest.mark.parametrize(
    ("answer", "expected", "f1"),
    [
        # The example of Lin's paper: recall 3/4 and precision 3/4, then 2/4 and 2/4.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        # As google-research's rouge-score has it: recall 1, precision 1/2.
        ("the quick brown fox", "The fox!", 2 / 3),
        ("one two", "three four", 0.0),
        ("", "three", 0.0),
        ("...", "", 1.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(
    answer: str, expected: str, f1: float
) -> None:
    assert rouge_l(answer, expected) == pytest.approx(f1)
    assert rouge_l(expected, answer) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "expected", "match"),
    [(" a  b\n", "a b", 1.0), ("A b", "a b", 0.0), ("a b.", "a b", 0.0), ("", " ", 1.0)],
)
def test_an_exact_match_forgives_spaces_and_nothing_else(
    answer: str, expected: str, match: float
) -> None:
    assert exact_match(answer, expected) == match
