"""How long a run may take, and what is left out so that it takes no longer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# What takes this long says as much the first time: it is not done again.
_ONCE_IF_OVER_S = 60.0


@dataclass
class Budget:
    """Whether a piece of work is done once more, by how long it took the last time."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    took_s: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began_s = self.clock()

    @property
    def spent_s(self) -> float:
        return self.clock() - self._began_s

    def why_not(self, work: tuple[str, str]) -> str:
        """Why it is not done now; empty = it is."""
        last_s = self.took_s.get(work, 0.0)
        if last_s > _ONCE_IF_OVER_S:
            return f"took {last_s:.0f} s, and is not repeated over {_ONCE_IF_OVER_S:.0f} s"
        if self.spent_s + last_s > self.seconds:
            return f"no time: {self.spent_s:.0f} of {self.seconds:.0f} s are spent"
        return ""

    def note(self, work: tuple[str, str], seconds: float) -> None:
        """Keep how long it took."""
        self.took_s[work] = seconds
