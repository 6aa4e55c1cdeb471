"""An offer that was refused rests: how long, by the reason; and never more than three an hour."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.contract.errors import (
    InsufficientCapacity,
    InsufficientQuota,
    NodeLaunchTimedOut,
    OfferUnavailable,
    SkuNotAvailable,
)
from tasks.nodes.claims.unavailable import Refusals

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (InsufficientQuota, HOUR),
        (InsufficientCapacity, HOUR),
        (SkuNotAvailable, 23 * HOUR),
        (NodeLaunchTimedOut, timedelta(minutes=5)),
    ],
)
def test_each_reason_has_its_rest(error: type[OfferUnavailable], rest: timedelta) -> None:
    refused = Refusals().after(error("a", "no", "c"), now=NOW)
    assert refused.is_resting(NOW + rest - timedelta(seconds=1))
    assert not refused.is_resting(NOW + rest)


def test_the_third_refusal_within_an_hour_rests_until_the_first_is_an_hour_old() -> None:
    refused = Refusals()
    for minutes in (0, 10, 20):
        refused = refused.after(
            NodeLaunchTimedOut("a", "no", "c"), now=NOW + timedelta(minutes=minutes)
        )
    assert refused.is_resting(NOW + timedelta(minutes=59))
    assert not refused.is_resting(NOW + HOUR)


def test_what_is_older_than_an_hour_counts_no_more() -> None:
    refused = Refusals()
    for hours in (0, 2, 4):
        refused = refused.after(NodeLaunchTimedOut("a", "no", "c"), now=NOW + hours * HOUR)
    assert len(refused.times) == 1
    assert not refused.is_resting(NOW + 4 * HOUR + timedelta(minutes=5))
