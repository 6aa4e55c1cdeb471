"""One look at what many runs wait for, for all that want one at about the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedLook(Generic[T]):
    """What a look sees; for a while others get the same, since hundreds of runs may wait."""

    def __init__(self, look: Callable[[], Awaitable[Sequence[T]]], *, fresh_s: float = 1.0) -> None:
        """Ask by `look`, an API server or a cloud, whose answer will do for `fresh_s`."""
        self._look, self._fresh_s = look, fresh_s
        self._one_at_a_time = asyncio.Lock()
        self._seen: Sequence[T] = ()
        self._fresh_until_s = 0.0
        self._changes = 0

    async def __call__(self) -> Sequence[T]:
        """What there is; at most `fresh_s` old."""
        async with self._one_at_a_time:
            clock = asyncio.get_running_loop().time
            if clock() >= self._fresh_until_s:
                began_s, changes = clock(), self._changes
                self._seen = await self._look()
                if changes == self._changes:
                    self._fresh_until_s = began_s + self._fresh_s
            return self._seen

    def forget(self) -> None:
        """Whoever asks from now on gets a look that begins after this: something has changed."""
        self._fresh_until_s = 0.0
        self._changes += 1
