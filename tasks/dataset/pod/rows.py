"""Raw rows, as every reader gives them: with the number a person finds them by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One record; its number is 1 for the first record, or the line where files have lines."""

    number: int
    values: Mapping[str, object]


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be read, and why; the file around it can."""

    number: int
    reason: str


Rows = Iterator[Row | BadRow]


class Unfit(ValueError):
    """A row that cannot be trained on; carries the reason, never leaves this package."""
