"""What one answer to every question loses."""

import math

import pytest

from tasks.tuning.pod.constant_answer import constant_answer_losses, right_by_one_answer

YES, NO, UNSURE, END = 1, 2, 3, 0
LABELS = [[YES, END]] * 60 + [[NO, END]] * 40


def test_of_a_few_labels_their_frequencies_count() -> None:
    yes, no = constant_answer_losses(LABELS, [[YES, END], [NO, END]], vocabulary=1000)
    assert math.exp(-yes) == pytest.approx(0.6, abs=0.01)
    assert math.exp(-no) == pytest.approx(0.4, abs=0.01)


def test_a_label_that_was_never_learned_is_possible_and_unlikely() -> None:
    [loss] = constant_answer_losses(LABELS, [[UNSURE, END]], vocabulary=1000)
    assert loss > math.log(100)


def test_of_free_text_its_words_count() -> None:
    texts = [[YES, other, END] for other in range(10, 60)]
    known, strange = constant_answer_losses(texts, [[YES, 99, END], [98, 97, 96]], vocabulary=1000)
    assert known < strange


def test_all_answers_together_are_no_likelier_than_one() -> None:
    """It is a distribution: over all answers of one token, and it knows of no others."""
    every = [[token] for token in range(4)]
    losses = constant_answer_losses([[YES], [YES], [NO]], every, vocabulary=4)
    assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1)


def test_of_a_thousand_tokens_nothing_overflows() -> None:
    [loss] = constant_answer_losses([list(range(1000))], [list(range(1000, 2000))], vocabulary=5000)
    assert math.isfinite(loss)


def test_one_answer_is_right_where_it_is_the_one_that_was_learned_most_often() -> None:
    asked = [[YES, END], [NO, END], [YES, END], [UNSURE, END]]
    assert right_by_one_answer(LABELS, asked) == 2
    assert right_by_one_answer([[NO, END]], [[YES, END]]) == 0
