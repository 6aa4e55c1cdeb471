"""Which continuations wait, and which of them may join those in work.

Knows no model and takes no lock: whoever asks holds the engine's.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from serving.engine import QueueFullError
from serving.transformers_engine.rows import Row


class Scheduler:
    """The continuations that wait, in the order they came."""

    def __init__(
        self,
        *,
        max_concurrency: int,
        max_queue: int,
        cache_tokens: int,
        can_mix: Callable[[Collection[str]], bool],
    ) -> None:
        """cache_tokens: that fit into memory. can_mix: whether these models share a batch."""
        self._max_concurrency = max_concurrency
        self._max_queue = max_queue
        self._cache_tokens = cache_tokens
        self._can_mix = can_mix
        self.waiting: deque[Row] = deque()

    @property
    def wanted(self) -> int:
        """How many continuations wait for which somebody still waits."""
        return sum(not row.stream.cancelled for row in list(self.waiting))

    def add(self, rows: Sequence[Row], *, in_work: int) -> None:
        """Have rows wait. Raises: QueueFullError: none of them does."""
        self._forget_given_up()
        free = max(0, self._max_concurrency - in_work)
        if len(self.waiting) + len(rows) > self._max_queue + free:
            raise QueueFullError
        self.waiting.extend(rows)

    def admit(self, in_work: Sequence[Row]) -> list[Row]:
        """The rows that wait no longer and join those in work now."""
        joining: list[Row] = []
        self._forget_given_up()
        while self.waiting and self._may_join(self.waiting[0], joining, in_work):
            joining.append(self.waiting.popleft())
        return joining

    def clear(self) -> list[Row]:
        """All that waited; none waits any more."""
        rows = list(self.waiting)
        self.waiting.clear()
        return rows

    def _forget_given_up(self) -> None:
        """Whoever hung up while waiting keeps nobody else out of the queue."""
        self.waiting = deque(row for row in self.waiting if not row.stream.cancelled)

    def _may_join(self, row: Row, joining: Sequence[Row], in_work: Sequence[Row]) -> bool:
        together = [*in_work, *joining, row]
        return (
            len(together) <= self._max_concurrency
            and len(together) * max(each.reserved_tokens for each in together) <= self._cache_tokens
            and self._can_mix({each.generation.model for each in together})
        )
