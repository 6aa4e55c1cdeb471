"""What is run again waits the longer the more often it was."""

from datetime import UTC, datetime, timedelta

from tasks.contract.errors import SecretNotFound
from tasks.contract.repairs import Repairs
from tasks.contract.units import utc_moment

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def pause_s(repairs: Repairs, now: datetime = NOW) -> float:
    return (utc_moment(repairs.not_before) - now).total_seconds()


def test_the_first_repair_begins_at_once() -> None:
    assert Repairs().may_begin(NOW)


def test_each_repair_lets_the_next_one_wait_twice_as_long_and_never_more_than_ten_minutes() -> None:
    repairs, now, pauses = Repairs(), NOW, []
    for _ in range(9):
        repairs = repairs.begun("Service web deleted", now)
        pauses.append(pause_s(repairs, now))
        now = utc_moment(repairs.not_before)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert (repairs.count, repairs.reason) == (9, "Service web deleted")


def test_a_failure_is_looked_at_after_half_a_minute_and_ever_more_rarely_up_to_an_hour() -> None:
    pauses = [pause_s(Repairs(count=count).after_failure(NOW)) for count in (0, 1, 2, 6, 7, 5000)]
    assert pauses == [30, 60, 120, 1920, 3600, 3600]


def test_a_secret_that_comes_back_is_found_within_five_minutes_since_nobody_tells_of_it() -> None:
    unheard = [
        pause_s(Repairs(count=count).after_failure(NOW, is_unheard=SecretNotFound.is_unheard))
        for count in (0, 3, 4, 5000)
    ]
    assert unheard == [30, 240, 300, 300]


def test_a_failure_for_which_a_server_paused_is_not_tried_again_within_an_hour() -> None:
    assert pause_s(Repairs().after_failure(NOW, cost_service=True)) == 3600


def test_nothing_begins_before_its_time_and_everything_at_it() -> None:
    repairs = Repairs().after_failure(NOW)
    assert not repairs.may_begin(NOW + 29 * SECOND)
    assert repairs.may_begin(NOW + 30 * SECOND)


def test_a_workspace_that_was_quiet_for_an_hour_counts_anew() -> None:
    often = Repairs(count=8).begun("a", NOW)
    due = utc_moment(often.not_before)
    assert often.begun("b", due + timedelta(hours=1)).count == 10
    assert often.begun("b", due + timedelta(hours=1) + SECOND).count == 1


def test_when_a_failure_is_looked_at_again_is_told_in_words() -> None:
    assert Repairs().after_failure(NOW).next_look == "looked at again at 12:00 UTC"
