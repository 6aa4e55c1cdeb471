"""A share of a name's requests for a candidate, for a while, and the guard that ends it early.

Pure: told of each answer, asked for each request; whoever has it moves no name.
"""

import random
from dataclasses import dataclass, field
from typing import Literal

from serving.errors import ApiError, shown

HEADER = "X-Kaitoflow-Canary"

Verdict = Literal["running", "passed", "too_few", "tripped", "stopped", "promoted"]


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What a candidate may do worse than what serves.

    most_error_rate: that its share of failed answers may lie above the other's.
    most_slowdown: its seconds a token as a multiple of the other's.
    least_requests: before which nothing is concluded but from errors alone.
    """

    most_error_rate: float = 0.02
    most_slowdown: float = 2.0
    least_requests: int = 20


@dataclass
class Tally:
    """What one of the two has answered meanwhile."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    tokens: int = 0

    def count(self, *, seconds: float, tokens: int | None) -> None:
        """Note an answer; tokens: None = it failed, which says nothing of speed."""
        self.requests += 1
        if tokens is None:
            self.failed += 1
        else:
            self.seconds += seconds
            self.tokens += tokens

    @property
    def error_rate(self) -> float:
        """Failed answers, 1 is all."""
        return self.failed / max(1, self.requests)

    @property
    def seconds_per_token(self) -> float:
        """From the request on; what waits in the queue counts."""
        return self.seconds / max(1, self.tokens)


@dataclass
class Canary:
    """One candidate beside what serves; times are `time.monotonic`'s."""

    candidate: str
    share: float
    ends_s: float
    guard: Guard
    verdict: Verdict = "running"
    reason: str = ""
    ours: Tally = field(default_factory=Tally)
    theirs: Tally = field(default_factory=Tally)

    def takes(self, wish: str | None, *, now_s: float) -> bool:
        """Whether a request is the candidate's. wish: as `wish_of` has it."""
        self.look(now_s=now_s)
        if self.verdict != "running" or wish == "never":
            return False
        return wish == "always" or random.random() < self.share

    def count(self, *, is_candidate: bool, seconds: float, tokens: int | None) -> None:
        """Note an answer, and end the canary where the guard says so; tokens: None = it failed."""
        tally = self.theirs if is_candidate else self.ours
        tally.count(seconds=seconds, tokens=tokens)
        if self.verdict == "running" and (reason := self._fault()):
            self.end("tripped", reason)

    def _fault(self) -> str:
        """Why the candidate is no better kept; empty = nothing is wrong so far."""
        least, ours, theirs = self.guard.least_requests, self.ours, self.theirs
        # Over `least` requests at least: so many failures that the rest cannot make good.
        rate = theirs.failed / max(least, theirs.requests)
        if rate > ours.error_rate + self.guard.most_error_rate:
            return (
                f"{theirs.failed} of {theirs.requests} answers of {self.candidate} failed,"
                f" {ours.failed} of {ours.requests} of what serves"
            )
        slower = theirs.seconds_per_token / max(ours.seconds_per_token, 1e-9)
        if min(ours.requests, theirs.requests) >= least and slower > self.guard.most_slowdown:
            return (
                f"{self.candidate} takes {theirs.seconds_per_token:.3f} s a token, what serves"
                f" {ours.seconds_per_token:.3f} s"
            )
        return ""

    def look(self, *, now_s: float) -> None:
        """End the canary when its time is over."""
        if self.verdict != "running" or now_s < self.ends_s:
            return
        asked = f"{self.theirs.requests} requests in its time"
        if self.theirs.requests < self.guard.least_requests:
            self.end("too_few", f"{asked}, {self.guard.least_requests} say something")
        else:
            self.end("passed", asked)

    def end(self, verdict: Verdict, reason: str) -> None:
        """Send nothing more to the candidate; the first verdict stays."""
        if self.verdict == "running":
            self.verdict, self.reason = verdict, reason


def wish_of(header: str | None) -> str | None:
    """What a request's header asks for: always, never, or nothing. Raises: ApiError 400."""
    if header is None or header in {"always", "never"}:
        return header
    raise ApiError(
        400,
        f"{HEADER}: {shown(header)} was asked for, it is always or never; leave it out to be one of"
        " many",
        code="invalid_value",
    )
