"""Where the work stands, told at most once in a while."""

import time

from tasks.contract.podlog import emit


class Progress:
    """Emits `progress` events; those that follow too closely are left out."""

    def __init__(self, *, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._next_s = 0.0

    def tell(self, **fields: object) -> None:
        """Emit the fields, unless the last event is too recent."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        emit("progress", fields)
