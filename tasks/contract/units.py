"""Numbers as a person would say them, and moments as Kubernetes writes them. Pure."""

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """A duration as a person would say it: `45 s`, `3 min`, `2 h`, `4 days`."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def utc_text(moment: datetime) -> str:
    """A moment as Kubernetes writes it: `2026-01-31T12:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_moment(text: str) -> datetime:
    """The moment that such a text names, or any text of ISO 8601."""
    return datetime.fromisoformat(text).astimezone(UTC)
