"""When a watch counts as dead."""

import pytest

from flows.watcher.freshness import Freshness


class Clock:
    """Seconds that a test lets pass."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def freshness(clock: Clock) -> Freshness:
    return Freshness(clock)


def test_a_watch_that_shows_what_is_listed_is_fresh(freshness: Freshness, clock: Clock) -> None:
    for version in "123":
        clock.seconds += 60
        freshness.show("a", version)
        freshness.compare({"a": version})
        assert freshness.age_s == 0


def test_a_watch_is_as_old_as_what_it_does_not_show(freshness: Freshness, clock: Clock) -> None:
    freshness.show("a", "1")
    freshness.compare({"a": "1"})
    for _ in range(3):
        clock.seconds += 60
        freshness.compare({"a": "1", "new": "2"})
    assert freshness.age_s == 120  # at the first of these looks it might just not have come yet


def test_objects_that_change_at_every_look_do_not_make_it_old(
    freshness: Freshness, clock: Clock
) -> None:
    for number in range(5):
        clock.seconds += 60
        freshness.show("a", str(number))
        freshness.compare({"a": str(number + 1)})
    assert freshness.age_s == 0


def test_what_is_gone_does_not_make_it_old(freshness: Freshness, clock: Clock) -> None:
    freshness.compare({"a": "1"})
    freshness.forget("a")
    clock.seconds += 60
    freshness.compare({})
    assert freshness.age_s == 0


def test_a_watch_that_was_never_compared_ages_from_its_start(
    freshness: Freshness, clock: Clock
) -> None:
    assert freshness.age_s == 0
    clock.seconds += 60
    assert freshness.age_s == 60


def test_an_object_that_is_there_again_has_to_be_shown_again(
    freshness: Freshness, clock: Clock
) -> None:
    freshness.show("a", "1")
    freshness.forget("a")
    for _ in range(2):
        clock.seconds += 60
        freshness.compare({"a": "1"})
    assert freshness.age_s == 60
