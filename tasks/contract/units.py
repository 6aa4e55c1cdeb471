"""Numbers as a person would say them, and moments as Kubernetes writes them. Pure."""

import re
from datetime import UTC, datetime

_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_SHORT = re.compile(r"(\d+)([smhdw])")
_ISO = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


def duration(seconds: float) -> str:
    """A duration as a person would say it: `45 s`, `3 min`, `2 h`, `4 days`."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds_of(text: str) -> float | None:
    """The seconds of `6h` or `P1DT6H`; None where it is neither."""
    if short := _SHORT.fullmatch(text):
        return int(short[1]) * _UNIT_S[short[2]]
    iso = _ISO.fullmatch(text)
    if iso and any(iso.groups()):
        return sum(int(n or 0) * _UNIT_S[u] for n, u in zip(iso.groups(), "wdhms", strict=True))
    return None


def utc_text(moment: datetime) -> str:
    """A moment as Kubernetes writes it: `2026-01-31T12:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_moment(text: str) -> datetime:
    """The moment that such a text names, or any text of ISO 8601."""
    return datetime.fromisoformat(text).astimezone(UTC)
