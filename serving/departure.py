"""How a server goes: it takes nothing new, lets what was begun end, and tells the rest why not.

Told to stop, it goes on listening while answers are under way: whoever comes then is refused in
OpenAI's shape, with the time after which another server is there, instead of by a closed port.
"""

import asyncio
import socket

import uvicorn

from serving.server import Server

# For the last events of streams that were cut, on their way to who reads them.
FAREWELL_S = 2
WAITING_CONNECTIONS = 1024


class DepartingServer(uvicorn.Server):
    """uvicorn, which closes its port when no answer is under way, or the time for them is over."""

    def __init__(self, config: uvicorn.Config, shared: Server, *, drain_s: float) -> None:
        """Serve `shared`; drain_s: that answers have to end once the server is told to stop."""
        super().__init__(config)
        self._shared, self._drain_s, self._cuts_at_s = shared, drain_s, 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Let a burst wait in the kernel again: asyncio has one number for both."""
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(WAITING_CONNECTIONS)

    async def on_tick(self, counter: int) -> bool:
        """Whether to close now; asked ten times a second."""
        engine = self._shared.engine
        if engine is not None and engine.fault:
            self.should_exit = True  # nothing can be answered any more
        return await super().on_tick(counter) and await self._has_ended()

    async def _has_ended(self) -> bool:
        engine, now_s = self._shared.engine, asyncio.get_running_loop().time()
        if engine is None or engine.fault or self.force_exit:
            return True
        if not self._shared.is_leaving:
            self._shared.is_leaving = True
            self._cuts_at_s = now_s + self._drain_s
        load = engine.load()
        if not load.running and not load.waiting:
            return True
        if now_s < self._cuts_at_s:
            return False
        await asyncio.to_thread(engine.close)
        return True
