"""Lines of cron: what is wrong with one, and when it fires next. Pure.

As Prefect reads them, which fires them: with a day of the month and a weekday, either will do.
"""

from datetime import UTC, datetime, timedelta

# Minute, hour, day, month, weekday: the smallest and the largest number, and names of numbers.
_FIELDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())),
    (0, 7, tuple("sun mon tue wed thu fri sat".split())),
)
_DAYS_OF_A_MONTH, _DAYS_OF_A_WEEK = set(range(1, 32)), set(range(7))
# The 29th of February comes within eight years, also around one that is no leap year.
_MOST_DAYS = 8 * 366
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def fault(fields: list[str]) -> str:
    """What keeps five fields from being a line of cron; empty where they are one."""
    for field, (least, most, names) in zip(fields, _FIELDS, strict=True):
        if not all(_numbers(part, least, most, names) for part in field.lower().split(",")):
            return f"{field!r} is no field of cron from {least} to {most}"
    is_ever = next_time(" ".join(fields), _ANY_TIME)
    return "" if is_ever else "there is no such day in any year"


def next_time(cron: str, after: datetime) -> datetime | None:
    """When a line without fault fires next after a moment; None = it never does.

    Both are times of a clock: that it may be put back, or forward, counts for nothing.
    """
    minutes, hours, days, months, weekdays = (
        {n for part in field.lower().split(",") for n in _numbers(part, least, most, names)}
        for field, (least, most, names) in zip(cron.split(), _FIELDS, strict=True)
    )
    weekdays = {n % 7 for n in weekdays}
    is_either = days != _DAYS_OF_A_MONTH and weekdays != _DAYS_OF_A_WEEK
    times = sorted((hour, minute) for hour in hours for minute in minutes)
    for passed in range(_MOST_DAYS):
        day = after + timedelta(days=passed)
        is_day, is_weekday = day.day in days, day.isoweekday() % 7 in weekdays
        fits = (is_day or is_weekday) if is_either else (is_day and is_weekday)
        if day.month not in months or not fits:
            continue
        for hour, minute in times:
            moment = day.replace(hour=hour, minute=minute, second=0, microsecond=0)
            if moment > after:
                return moment
    return None


def _numbers(part: str, least: int, most: int, names: tuple[str, ...]) -> range:
    """What a part without commas stands for: `*`, a number, a name or a range, with a step or not.

    Empty where it is none of these.
    """
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and 0 < int(step) <= most):
        return range(0)
    ends = [least, most] if span == "*" else [_number(end, least, names) for end in span.split("-")]
    if not (len(ends) <= 2 and all(least <= end <= most for end in ends)):
        return range(0)
    # With a step a single number is where it begins.
    last = most if slash and len(ends) == 1 else ends[-1]
    return range(ends[0], last + 1, int(step or 1))


def _number(text: str, least: int, names: tuple[str, ...]) -> int:
    """The number that a part stands for; -1 where it stands for none."""
    if text in names:
        return names.index(text) + least
    return int(text) if text.isdecimal() else -1
