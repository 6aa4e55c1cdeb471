"""Numbers as a person would say them. Pure."""


def duration(seconds: float) -> str:
    """A duration as a person would say it: `45 s`, `3 min`, `2 h`, `4 days`."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
