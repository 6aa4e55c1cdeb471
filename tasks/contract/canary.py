"""How a candidate is tried out before it answers to all: read from an annotation. Pure."""

import re
from dataclasses import dataclass

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.units import duration, seconds_of

CANARY_ANNOTATION = "kaitoflow.io/canary"
_DEFAULT = "10% for 10m"
_GRAMMAR = re.compile(r"(\d+(?:\.\d+)?)\s*%\s+for\s+(\S+)")
# A day at most: the retuning is the Workspace's only run meanwhile.
_LEAST_S, _MOST_S = 10.0, 86400.0


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A share of the requests for a candidate, and what it may do worse than what serves.

    share: 0 to 1. for_s: how long. most_error_rate: above that of what serves.
    most_slowdown: its seconds a token as a multiple. least_requests: that say something.
    """

    share: float
    for_s: float
    most_error_rate: float = 0.02
    most_slowdown: float = 2.0
    least_requests: int = 20

    def __str__(self) -> str:
        """The canary as it is told: `10 % of the requests for 10 min`."""
        return f"{100 * self.share:g} % of the requests for {duration(self.for_s)}"


def parse_canary(text: str | None) -> Canary:
    """The canary that the annotation's text describes; None = the default.

    Raises: InvalidWorkspace.
    """
    spelled = _GRAMMAR.fullmatch((_DEFAULT if text is None else text).strip())
    if spelled is None:
        raise _wrong(text, "that is no share and time")
    share, for_s = float(spelled[1]) / 100, seconds_of(spelled[2])
    if not 0 < share <= 1:
        raise _wrong(text, f"{spelled[1]} % is no share of the requests")
    if for_s is None or not _LEAST_S <= for_s <= _MOST_S:
        raise _wrong(text, f"{spelled[2]!r} is no time from 10s to 24h")
    return Canary(share=share, for_s=for_s)


def _wrong(text: str | None, found: str) -> InvalidWorkspace:
    fix = f'write a share above 0 and a time from 10s to 24h, as "{_DEFAULT}"'
    return InvalidWorkspace(f"annotation {CANARY_ANNOTATION} is {text!r}", found, fix)
