"""Which adapters a Workspace has had, which one serves, and which one a rollback brings back."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Fate, candidate_image
from tasks.contract.artifacts import PublishedImage, Tuned
from tasks.contract.data_marks import DataMarks, FileMark
from tasks.contract.errors import AdapterNotFound, ImageReferenceInvalid
from tasks.contract.status import WorkspaceStatus, fresh_status

START = datetime(2026, 1, 1, tzinfo=UTC)


def image(number: int) -> PublishedImage:
    return PublishedImage(reference=f"r.example.com/a:1-g{number}", digest=f"sha256:{number}")


def tuned(number: int) -> Tuned:
    return Tuned(training=f"t{number}", generation=number, image=image(number))


def data(etag: str) -> DataMarks:
    return DataMarks(files=(FileMark(name="https://example.com/rows", etag=etag),), digest=etag)


def history(*promoted: int, tuned: int = 0) -> AdapterHistory:
    """Adapters 1 to `tuned`, of which some were promoted one after the other."""
    made = AdapterHistory()
    for number in range(1, max(tuned, *promoted) + 1):
        made.add(AdapterRecord(number=number, image=image(number)), data(f"{number}"))
    for day, number in enumerate(promoted):
        made.promote(number, by="gate", why="better", now=START + timedelta(days=day))
    return made


def test_the_first_adapter_serves_as_soon_as_it_is_there() -> None:
    made = AdapterHistory()
    for _ in range(2):  # a run that was repeated
        made.add_first(tuned(1), data=data("a"))
    [record] = made.records
    assert (record.number, record.fate, record.data) == (1, Fate.SERVING, "a")
    assert made.data == data("a")


def test_a_run_that_begins_again_on_the_same_data_makes_the_same_candidate() -> None:
    made = history(1)
    numbers = [made.begin(data(etag)).number for etag in ("x", "x", "y")]
    assert numbers == [2, 2, 3]


def test_of_two_adapters_one_serves() -> None:
    made = history(1, 2)
    assert [r.fate for r in made.records] == [Fate.SERVED, Fate.SERVING]


def test_promoting_twice_is_promoting_once() -> None:
    made = history(1, 2)
    once = made.model_copy(deep=True)
    made.promote(2, by="ana", why="again")
    assert made == once


UNKNOWN = DataMarks(files=(FileMark(name="volume"),))


def test_a_run_that_is_killed_goes_on_with_its_candidate_whatever_is_known_of_the_data() -> None:
    made = history(1)
    assert made.begin(UNKNOWN, run="first").number == 2
    assert made.begin(UNKNOWN, run="first").number == 2
    assert made.begin(UNKNOWN, run="second").number == 3


def test_of_looks_that_were_due_while_nobody_could_look_one_is_made() -> None:
    made, hour = history(1), timedelta(hours=1)
    assert not made.is_overtaken(START, run="1")
    made.tell("skipped: the data has the same ETag", START + hour)
    assert made.is_overtaken(START, run="2")
    assert not made.is_overtaken(START + hour, run="2")
    assert not made.is_overtaken(START + 2 * hour, run="3")
    made.begin(data("b"), run="4")
    assert not made.is_overtaken(START, run="4")


def test_a_rollback_brings_back_the_adapter_that_served_last() -> None:
    former = history(1, 3, 2, tuned=4).former
    assert former
    assert former.number == 3


def test_a_rollback_of_a_rollback_brings_the_newer_one_back() -> None:
    made = history(1, 2, 1)
    assert made.former
    assert made.former.number == 2


def test_an_adapter_comes_back_with_the_data_that_it_was_tuned_from() -> None:
    made = AdapterHistory()
    for number in (1, 2):
        made.add_first(tuned(number), data=data(f"{number}"))
    made.bring_back(image(1))
    assert [r.fate for r in made.records] == [Fate.SERVING, Fate.SERVED]
    assert made.data == DataMarks(digest="1")


def test_a_known_adapter_that_is_tuned_again_is_no_other_and_tells_its_data_anew() -> None:
    made = history(1)
    made.add_first(tuned(1), data=data("again"))
    assert [r.number for r in made.records] == [1]
    assert made.data == data("again")


def test_an_adapter_that_serves_already_comes_back_without_a_trace() -> None:
    made = history(1, 2)
    before = made.model_copy(deep=True)
    made.bring_back(image(2))
    assert made == before


def test_what_served_can_serve_again_the_last_first_and_what_was_kept_out_cannot() -> None:
    made = history(1, 3, 2, tuned=4)
    made.keep_out(4, by="gate", why="worse")
    assert [each.image for each in made.proven] == [image(2), image(3), image(1)]


def test_what_was_tuned_before_anything_was_told_is_told_of_when_another_is() -> None:
    status = WorkspaceStatus(tuned=tuned(1), observed_generation=2)
    status.remember_tuned("t2", image(2))
    assert [(r.number, r.training, r.generation) for r in status.adapters.records] == [
        (1, "t1", 1),
        (2, "t2", 2),
    ]


def test_an_adapter_that_was_kept_out_is_nothing_to_go_back_to() -> None:
    made = history(1, tuned=2)
    made.keep_out(2, by="gate", why="worse")
    assert made.former is None
    assert made.find(2).why == "worse"


def test_of_adapters_that_wait_for_a_word_the_newest_is_asked_about() -> None:
    made = history(1, tuned=3)
    assert made.waiting is made.find(3)
    made.keep_out(3, by="gate", why="worse")
    assert made.waiting is made.find(2)
    made.promote(2, by="ana", why="better")
    assert made.waiting is None


def test_the_newest_adapter_that_was_measured_says_on_which_rows() -> None:
    made = history(1)
    assert made.last_measured is None
    for number, rows in ((2, "a"), (3, "b"), (4, "")):
        record = AdapterRecord(number=number, image=image(number), measured_rows=rows)
        made.add(record, data(f"{number}"))
    assert made.last_measured == made.find(3)


def test_an_adapter_that_was_never_tuned_is_not_promoted() -> None:
    with pytest.raises(AdapterNotFound, match="known: 1, 2"):
        history(1, 2).promote(7, by="ana", why="please")


def test_what_serves_may_come_back_or_waits_outlives_the_history_s_bound() -> None:
    made = history(2, 1, tuned=5)
    made.keep(2)
    assert [r.number for r in made.records] == [1, 2, 5]


def test_the_history_forgets_the_oldest_first() -> None:
    made = history(4, 5, tuned=6)
    made.keep(3)
    assert [r.number for r in made.records] == [4, 5, 6]


def test_no_more_is_forgotten_than_is_over_the_history_s_bound() -> None:
    made = history(5, 6, tuned=6)
    made.keep(5)
    assert [r.number for r in made.records] == [2, 3, 4, 5, 6]


def test_the_newest_is_told_of_whatever_became_of_it_and_however_short_the_history() -> None:
    made = history(1, tuned=2)
    made.keep_out(2, by="gate", why="worse")
    made.keep(1)
    assert [(r.number, r.fate) for r in made.records] == [(1, "serving"), (2, "kept out")]


def test_no_number_comes_back_whatever_was_forgotten_or_came_to_nothing() -> None:
    made = history(1, tuned=4)
    made.records = [r for r in made.records if r.number == 1]
    assert made.begin(data("x"), run="a").number == 5
    made.give_up_candidate()
    assert made.begin(data("x"), run="b").number == 6
    made.drop_candidate(data("x"))
    assert made.begin(data("y"), run="c").number == 7
    made.add_first(tuned(8), data=data("z"))
    assert [r.number for r in made.records] == [1, 8]


def test_a_history_that_did_not_note_its_last_number_goes_on_after_what_it_tells_of() -> None:
    made = history(1, tuned=3)
    made.last_number = 0
    assert made.begin(data("x")).number == 4
    assert AdapterHistory().begin(data("x")).number == 2


def test_a_number_whose_image_is_somebody_else_s_is_left_out() -> None:
    made = history(1)
    assert made.begin(data("x"), run="a", free=4).number == 4
    assert made.begin(data("x"), run="a", free=9).number == 4


def test_whoever_goes_on_with_a_candidate_it_is_of_the_run_that_began_it() -> None:
    made = history(1)
    made.begin(data("x"), run="first")
    begun = made.begin(data("x"), run="second")
    assert (begun.run, begun.begun_by) == ("second", "first")


def test_once_a_candidate_is_known_the_next_is_told_by_what_it_was_made_from() -> None:
    made = history(1)
    for _ in range(2):  # a run that was repeated
        made.begin(data("new"))
        made.add_candidate(AdapterRecord(number=2, image=image(2)))
        assert (made.data, made.candidate) == (data("new"), None)


def test_a_candidate_of_which_nothing_was_kept_leaves_the_data_as_they_are() -> None:
    made = history(1)
    made.add_candidate(AdapterRecord(number=2, image=image(2)))
    assert made.data == data("1")


def test_a_new_generation_of_the_workspace_keeps_the_history() -> None:
    earlier = WorkspaceStatus(adapters=history(1, 2))
    assert fresh_status(2, earlier).adapters == earlier.adapters


def test_each_adapter_has_a_tag_of_its_own() -> None:
    assert candidate_image("r.example.com/a:0.0.1", 4) == "r.example.com/a:0.0.1-g4"
    with pytest.raises(ImageReferenceInvalid):
        candidate_image(f"r.example.com/a:{'1' * 127}", 4)


def waiting(*numbers: int) -> AdapterHistory:
    """Adapters 1, which serves, and others, each tuned and to be approved after the one before."""
    made = history(1)
    for number in numbers:
        made.add(AdapterRecord(number=number, image=image(number)), data(f"{number}"))
        made.await_word(number, why="better", answer_by=START + timedelta(days=number))
    return made


def test_an_adapter_that_waits_is_overtaken_by_the_next_one_that_does() -> None:
    made = waiting(2, 3)
    assert made.waiting
    assert made.waiting.number == 3
    assert (made.find(2).fate, made.find(2).why) == (Fate.KEPT_OUT, "overtaken by adapter 3")


def test_an_adapter_that_waits_is_overtaken_by_a_newer_one_that_serves_not_by_an_older() -> None:
    made = waiting(2)
    made.promote(1, by="ana", why="rolled back")
    assert made.find(2).fate is Fate.WAITING
    made.add(AdapterRecord(number=3, image=image(3)), data("3"))
    made.promote(3, by="gate", why="better")
    assert made.find(2).fate is Fate.KEPT_OUT


def test_a_run_that_begins_again_asks_nobody_about_what_is_decided() -> None:
    made = waiting(2)
    made.promote(2, by="ana", why="reads better")
    made.await_word(2, why="better", answer_by=START)
    made.try_out(2, why="better")
    assert made.find(2).fate is Fate.SERVING


def test_an_adapter_waits_no_longer_than_it_is_to() -> None:
    record = waiting(2).find(2)
    assert not record.is_time_up(START + timedelta(days=1))
    assert record.is_time_up(START + timedelta(days=2))
    assert not AdapterRecord(number=3, image=image(3)).is_time_up(START)


def test_an_adapter_on_trial_may_come_to_wait_and_serves_nobody_until_then() -> None:
    made = history(1)
    made.add(AdapterRecord(number=2, image=image(2)), data("2"))
    made.try_out(2, why="better")
    assert (made.waiting, made.on_trial) == (None, made.find(2))
    made.await_word(2, why="too few asked", answer_by=START)
    assert (made.waiting, made.on_trial) == (made.find(2), None)


def found(*numbers: int) -> list[AdapterRecord]:
    return [
        AdapterRecord(number=n, image=image(n), training=f"t{n}", data=f"sha256:d{n}")
        for n in numbers
    ]


def test_of_adapters_that_are_found_again_the_one_that_is_served_serves_on() -> None:
    made = AdapterHistory()
    serving = made.find_again(found(1, 4, 3), served=["sha256:other", "sha256:3"])
    assert serving
    assert (serving.image, serving.training) == (image(3), "t3")
    assert [(r.number, r.fate) for r in made.records] == [
        (1, Fate.KEPT_OUT),
        (3, Fate.SERVING),
        (4, Fate.KEPT_OUT),
    ]
    assert {r.by for r in made.records} == {"registry"}


def test_where_nothing_is_served_the_first_that_is_found_again_is_to_serve() -> None:
    made = AdapterHistory()
    serving = made.find_again(found(2, 1), served=())
    assert serving
    assert serving.image == image(1)


def test_where_neither_is_known_nothing_is_to_serve_and_all_are_told_of() -> None:
    made = AdapterHistory()
    assert made.find_again(found(2, 3), served=()) is None
    assert [r.number for r in made.records] == [2, 3]
    assert made.serving is None


def test_no_number_of_an_adapter_that_was_found_again_is_used_twice() -> None:
    made = AdapterHistory()
    made.find_again(found(1, 7), served=())
    assert made.begin(data("a")).number == 8


def test_data_that_the_newest_one_found_was_tuned_from_is_known_by_its_digest() -> None:
    made = AdapterHistory()
    made.find_again(found(1, 2), served=())
    assert made.data == DataMarks(digest="sha256:d2")


def test_one_that_was_found_again_serves_at_a_person_s_word() -> None:
    made = AdapterHistory()
    made.find_again(found(1, 2), served=())
    made.promote(2, by="anna", why="it was the better one")
    assert made.former
    assert (made.serving, made.former.number) == (made.find(2), 1)


def test_what_is_told_of_is_not_replaced_by_what_is_found() -> None:
    made = history(1, 2)
    assert made.find_again(found(1, 2, 3), served=()) is None
    assert len(made.records) == 2


def test_a_status_that_knows_what_was_tuned_finds_nothing_again() -> None:
    status = WorkspaceStatus(tuned=tuned(5))
    status.find_adapters_again(found(1), served=(), now=START)
    assert (status.tuned, status.adapters.records) == (tuned(5), [])


def test_a_status_that_was_lost_tells_of_what_was_found() -> None:
    status = WorkspaceStatus()
    status.find_adapters_again(found(1, 2), served=["sha256:2"], now=START)
    assert status.tuned
    assert status.tuned.image == image(2)
    assert status.adapters.told_what == "told of from the registry again: adapters 1, 2"
