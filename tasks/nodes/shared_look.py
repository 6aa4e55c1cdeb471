"""One look at the cluster for all runs that want one at about the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_FRESH_S = 1.0


class SharedLook(Generic[T]):
    """What a look sees; for a second others get the same, since hundreds of runs may wait."""

    def __init__(self, look: Callable[[], Awaitable[Sequence[T]]]) -> None:
        """Args: look: asks the API server."""
        self._look = look
        self._one_at_a_time = asyncio.Lock()
        self._seen: Sequence[T] = ()
        self._fresh_until_s = 0.0

    async def __call__(self) -> Sequence[T]:
        """What there is; at most a second old."""
        async with self._one_at_a_time:
            clock = asyncio.get_running_loop().time
            if clock() >= self._fresh_until_s:
                self._seen = await self._look()
                self._fresh_until_s = clock() + _FRESH_S
            return self._seen

    def forget(self) -> None:
        """The next look is a new one: something was changed from here."""
        self._fresh_until_s = 0.0
