"""Who is gone: whoever gave no sign of life for a whole lease, seen by this process's own clock.

Clocks of machines differ and a server can be away, so what counts is neither the time that a
sign carries nor silence while nobody listened: only a sign that stayed the same while looked at.
"""

import time
from collections.abc import Callable, Hashable, Mapping


class Leases:
    """Signs of life, each with the moment since when it has not changed."""

    def __init__(self, lease_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._now = now
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}
        self._observed_s = now()

    def observe(self, signs: Mapping[Hashable, Hashable]) -> None:
        """Take in all signs there are at this moment; a key left out is forgotten."""
        now = self._now()
        if now - self._observed_s > self._lease_s / 4:
            self._seen = {}  # nobody looked meanwhile: all begin anew
        self._observed_s = now
        self._seen = {key: self._since(key, sign, now) for key, sign in signs.items()}

    def is_over(self, key: Hashable) -> bool:
        """Whether the key's sign has stayed the same for a whole lease."""
        _, since_s = self._seen.get(key, (None, self._observed_s))
        return self._observed_s - since_s >= self._lease_s

    def _since(self, key: Hashable, sign: Hashable, now: float) -> tuple[Hashable, float]:
        before = self._seen.get(key)
        return before if before and before[0] == sign else (sign, now)
