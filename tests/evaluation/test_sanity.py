"""What is wrong with answers whatever they are about."""

import pytest

from tasks.evaluation.sanity import WrittenAnswer, faults, is_looping, look_at, main_script

GOOD = WrittenAnswer(text="It joins two paths.", expected="It joins paths.", stopped=True)


def written(text: str, *, expected: str = GOOD.expected, stopped: bool = True) -> WrittenAnswer:
    return WrittenAnswer(text=text, expected=expected, stopped=stopped)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (written(" \n"), "1 of 1 are empty"),
        (written("It joins", stopped=False), "1 of 1 do not stop by themselves"),
        (written("so on and " * 4), "1 of 1 repeat themselves"),
        (
            written("Оно соединяет пути"),
            "1 of 1 are in another script than the expected ones",
        ),
    ],
)
def test_a_fault_is_told_in_words(answer: WrittenAnswer, fault: str) -> None:
    assert faults(look_at([answer]), look_at([GOOD])) == [fault]


def test_a_fault_that_the_reference_has_as_often_is_not_the_candidates() -> None:
    endless = look_at([written("It joins", stopped=False)])
    assert faults(endless, endless) == []


def test_a_fault_of_one_answer_in_four_is_no_fault_of_the_model() -> None:
    answers = [GOOD, GOOD, GOOD, written("")]
    assert faults(look_at(answers), look_at([GOOD])) == []
    assert faults(look_at([*answers, written("")]), look_at([GOOD])) == ["2 of 5 are empty"]


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("no no no", False),
        ("no no no no", True),
        ("first this then that " * 4, True),
        ("a list: 1. one 2. two 3. three 4. four 5. five", False),
        ("it is what it is and it is what it was and it is fine", False),
        ("", False),
    ],
)
def test_the_same_words_four_times_in_a_row_are_a_loop(text: str, *, loops: bool) -> None:
    assert is_looping(text) is loops


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Ein ganzer Satz.", "LATIN"),
        ("これは日本語の文章です", "CJK"),
        ("这是一个完整的中文句子", "CJK"),
        ("Это предложение", "CYRILLIC"),
        ("42 + 1 = 43", None),
        ("half латиница half", None),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, script: str | None) -> None:
    assert main_script(text) == script
