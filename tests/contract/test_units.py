"""Durations are told as a person would, and moments as Kubernetes does."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tasks.contract.units import duration, utc_moment, utc_text

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (3600 * 47, "47 h"),
        (3600 * 48, "2 days"),
        (86400 * 10, "10 days"),
    ],
)
def test_a_duration_is_told_in_the_unit_of_which_it_has_at_least_two(
    seconds: float, told: str
) -> None:
    assert duration(seconds) == told


def test_a_moment_is_written_in_utc_and_read_back() -> None:
    in_tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    assert utc_text(in_tokyo) == "2026-01-31T12:00:00Z"
    assert utc_moment("2026-01-31T12:00:00Z") == NOON
    assert utc_moment("2026-01-31T21:00:00+09:00") == NOON
    assert utc_moment("2026-01-31T21:00:00+09:00").tzinfo == UTC
