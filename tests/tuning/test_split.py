"""What is held out stays so whatever is added, and is not measured beside a twin."""

from random import Random
from typing import Any

import pytest

from tasks.contract.training_config import DatasetSettings
from tasks.tuning.pod.split import MOST_MEASURED, Split, split_beside, split_rows
from tests.tuning.tiny import chat

Row = dict[str, Any]
WORDS = "oak elm ash fir yew box bay fig may sea sky sun ice fog dew mud ore tin gem jet".split()


def prose(number: int, words: int = 30) -> str:
    random = Random(number)
    return " ".join(random.choice(WORDS) + str(random.randrange(100)) for _ in range(words))


def row(number: int) -> Row:
    return chat(f"Question {number}: {prose(number)}?", prose(-number))


def split(rows: list[Row], **settings: Any) -> Split:
    return split_rows(rows, DatasetSettings(**settings))


def measured(rows: list[Row], **settings: Any) -> list[Row]:
    return [rows[place] for place in split(rows, **settings).measured]


@pytest.mark.parametrize(
    ("rows", "settings", "least", "most"),
    [
        (9, {}, 0, 0),
        (10, {}, 1, 2),
        (49, {}, 1, 10),
        (400, {}, 20, 60),
        (5000, {}, 60, 140),
        (400, {"train_test_split": 0.7}, 90, 150),
        (400, {"train_test_split": 1.0}, 0, 0),
        (4, {"train_test_split": 0.5}, 1, 3),
        (1, {"train_test_split": 0.5}, 0, 0),
    ],
)
def test_about_one_in_ten_is_held_out_or_what_the_user_leaves(
    rows: int, settings: dict[str, Any], least: int, most: int
) -> None:
    told = split([{"text": prose(number)} for number in range(rows)], **settings)
    assert least <= told.held_out <= most
    assert len(told.trained) == rows - told.held_out
    assert sorted(told.trained + told.measured) == list(range(rows))


def test_what_was_held_out_once_is_never_trained_on_when_rows_are_added() -> None:
    rows = [row(number) for number in range(100)]
    first = measured(rows)
    for added in range(100, 1000, 100):
        rows = [row(added + number) for number in range(100)] + rows
        now = split(rows)
        assert len(first) >= 5
        assert not [one for one in first if one in [rows[place] for place in now.trained]]


def test_what_was_held_out_stays_so_where_rows_become_many() -> None:
    rows: list[Row] = [{"text": prose(number, words=8)} for number in range(5010)]
    first = split(rows[:4990])
    grown = split_rows(rows, DatasetSettings(), share_before=first.share)
    assert (first.share, grown.share, split(rows).share) == (0.1, 0.1, 0.02)
    assert set(first.measured) <= set(grown.measured)
    assert not {*range(4990)} - {*first.trained} & {*grown.trained}
    shrunk = split_rows(rows[:4990], DatasetSettings(), share_before=split(rows).share)
    assert {*shrunk.trained} >= {*split(rows).trained} & {*range(4990)}


def test_what_the_user_says_to_hold_out_counts_whatever_was_before() -> None:
    rows = [row(number) for number in range(100)]
    told = split_rows(rows, DatasetSettings(train_test_split=0.7), share_before=0.1)
    assert told.share == pytest.approx(0.3)


def test_rows_that_a_user_sets_aside_are_measured_and_their_questions_not_learned() -> None:
    rows = [row(number) for number in range(60)]
    asked = rows[7]["messages"][0]["content"]
    aside = [chat(asked, "Another answer."), *(row(1000 + number) for number in range(20))]
    told = split_beside(rows, aside, DatasetSettings())
    assert sorted(told.trained) == [place for place in range(60) if place != 7]
    assert sorted(told.measured) == list(range(60, 81))
    assert (told.held_out, told.left_out, told.share) == (21, 1, 0.0)


def test_a_near_twin_of_a_row_set_aside_is_not_trained_on_and_that_row_is_measured() -> None:
    rows = [row(number) for number in range(60)]
    aside = [row(1000 + number) for number in range(20)]
    asked, answer = (each["content"] for each in aside[3]["messages"])
    told = split_beside([*rows, chat(f"Please: {asked}", answer)], aside, DatasetSettings())
    assert 60 not in told.trained
    assert len(told.measured) == len(aside)
    assert (told.left_out, told.resembling) == (1, 0)


def test_rows_set_aside_are_measured_in_one_order_wherever_they_stand_in_their_file() -> None:
    rows, aside = [row(1)], [row(1000 + number) for number in range(20)]
    orders = [
        [[*rows, *given][place] for place in split_beside(rows, given, DatasetSettings()).measured]
        for given in (aside, aside[::-1])
    ]
    assert orders[0] == orders[1] != aside


def test_a_rows_side_does_not_depend_on_its_place() -> None:
    rows = [row(number) for number in range(200)]
    mixed = Random(1).sample(rows, len(rows))
    assert measured(rows) == measured(mixed)


def test_another_seed_holds_other_rows_out() -> None:
    rows = [row(number) for number in range(200)]
    assert measured(rows, shuffle_seed=1) != measured(rows, shuffle_seed=2)
    assert measured(rows, shuffle_seed=1) == measured(rows, shuffle_seed=1)


def test_rows_to_train_on_are_shuffled_or_left_in_order() -> None:
    rows = [row(number) for number in range(50)]
    in_order, shuffled = split(rows, shuffle_dataset=False), split(rows)
    assert in_order.trained == sorted(shuffled.trained) != shuffled.trained


@pytest.mark.parametrize(
    "twin",
    [
        lambda one: {"messages": [*one["messages"], *chat("And then?", "No.")["messages"]]},
        lambda one: chat(one["messages"][0]["content"].upper() + "!!", "Another answer."),
        lambda one: {"messages": [{"role": "system", "content": "Be brief."}, *one["messages"]]},
    ],
    ids=["a longer conversation", "the question spelled otherwise", "a system prompt before it"],
)
def test_rows_with_one_question_are_on_one_side(twin: Any) -> None:
    rows = [row(number) for number in range(200)]
    told = split(rows + [twin(one) for one in rows])
    held_out = {place % 200 for place in told.measured}
    assert len(held_out) >= 10
    assert not held_out & {place % 200 for place in told.trained}
    assert told.resembling == 0


@pytest.mark.parametrize("questions", [100, 500, 900])
def test_no_question_that_was_trained_on_is_measured_however_many_ask_the_same(
    questions: int,
) -> None:
    rows = [row(number % questions) for number in range(1000)]
    told = split(rows)
    asked = {place % questions for place in told.measured}
    assert told.measured
    assert not asked & {place % questions for place in told.trained}


def test_where_every_row_has_its_like_in_training_none_is_measured_beside_it() -> None:
    """Each of 64 questions is asked twice, in other words: were rows split one by one, all leak."""
    rows = [row(number) for number in range(64)]
    again = [chat(f"Please: {asked_of(one)}", one["messages"][1]["content"]) for one in rows]
    told = split(rows + again)
    assert told.held_out
    assert not {place % 64 for place in told.measured} & {place % 64 for place in told.trained}


def asked_of(one: Row) -> str:
    return str(one["messages"][0]["content"])


def test_a_held_out_row_with_a_near_twin_in_training_is_counted_and_not_measured() -> None:
    rows = [row(number) for number in range(200)]
    out = split(rows).measured
    other_question = rows[out[0]]["messages"][0]["content"].replace("Question", "My question is")
    twin = chat(other_question, rows[out[0]]["messages"][1]["content"])
    for salt in range(100):  # one of them falls on the other side
        told = split([*rows, chat(f"{salt} {other_question}", twin["messages"][1]["content"])])
        if 200 in told.trained:
            break
    assert told.resembling == 1
    assert out[0] not in told.measured + told.trained


def test_rows_of_one_form_are_no_twins() -> None:
    """A long instruction that all rows share says nothing of what they ask."""
    form = "Classify the sentiment of the following review as positive or negative. " * 5
    rows = [chat(form + prose(number, words=6), "positive") for number in range(200)]
    assert split(rows).resembling == 0


def test_text_without_spaces_has_twins_too() -> None:
    letters = "日本語文章例一二三四五六七八九十百千万年月火水木金土"

    def sentence(number: int) -> str:
        random = Random(number)
        return "".join(random.choice(letters) for _ in range(40))

    rows: list[Row] = [{"text": sentence(number)} for number in range(100)]
    out = split(rows).measured[0]
    twins = [{"text": rows[out]["text"] + letter} for letter in letters[:5]]
    told = split(rows + twins)
    assert set(told.trained) & set(range(100, 105))
    assert told.resembling >= 1
    assert out not in told.measured + told.trained


def test_questions_that_many_ask_are_trained_on() -> None:
    rows = [chat("Write a haiku.", prose(number)) for number in range(60)]
    told = split(rows)
    assert (told.held_out, len(told.trained)) == (0, 60)
    assert told.missing == "no question is asked by so few rows that it could be held out"


def test_few_rows_are_said_to_be_too_few() -> None:
    assert split([row(1)] * 9).missing == "of fewer than 10 rows none is held out"


def test_what_is_measured_first_stays_so_and_has_an_end() -> None:
    rows: list[Row] = [{"text": prose(number, words=8)} for number in range(3000)]
    many = split(rows, train_test_split=0.4)
    assert len(many.measured) == MOST_MEASURED < many.held_out
    fewer = split(rows, train_test_split=0.9).measured
    assert many.measured[: len(fewer)] == fewer
