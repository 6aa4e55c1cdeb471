"""A line of cron fires when Prefect would have it fire, which is who starts the runs."""

from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from prefect.server.schemas.schedules import CronSchedule

from tasks.contract.cron import fault, next_time
from tasks.contract.retuning import RetuneSchedule

NOW = datetime(2026, 11, 30, 12, 34, 56, tzinfo=UTC)
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LINES = [
    "* * * * *",
    "0 3 * * 1",
    "*/15 9-17 * * mon-fri",
    "30 2 29 feb *",
    "0 0 31 * *",
    "0 0 13 * fri",
    "5/20 */7 1,15 jan-mar *",
    "0 12 * * 5-7",
    "0 12 * * sun",
    "0 0 */10 * 3",
    "59 23 31 12 *",
]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
async def test_the_next_time_is_the_one_that_prefect_computes(line: str, zone: str) -> None:
    random = Random(f"{line} {zone}")
    schedule, theirs = (
        RetuneSchedule(cron=line, timezone=zone),
        CronSchedule(cron=line, timezone=zone),
    )
    for _ in range(4):
        moment = datetime.fromtimestamp(NOW.timestamp() + random.randint(0, 10**8), tz=UTC)
        [expected] = await theirs.get_dates(n=1, start=moment)
        assert schedule.next_after(moment) == expected


@pytest.mark.parametrize("line", ["0 0 30 2 *", "0 0 31 4,6 *"])
def test_a_day_that_never_comes_is_a_fault(line: str) -> None:
    assert fault(line.split()) == "there is no such day in any year"


def test_what_fires_now_fires_next_a_time_later() -> None:
    assert next_time("0 12 * * *", NOON) == NOON + timedelta(days=1)


def test_the_time_of_day_stays_over_the_end_of_summer_time() -> None:
    schedule = RetuneSchedule(cron="0 3 * * *", timezone="Europe/Berlin")
    found = schedule.next_after(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    assert found == datetime(2026, 10, 25, 3, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    assert found.astimezone(UTC).hour == 2


def test_an_interval_is_counted_from_where_it_began() -> None:
    schedule, began = RetuneSchedule(every_s=3600.0), datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    assert schedule.next_after(NOW, anchor=began) == datetime(2026, 11, 30, 13, 10, tzinfo=UTC)
    assert schedule.next_after(NOW) is None
