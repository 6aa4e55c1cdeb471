"""One vLLM that is kept running: ready, watched, and started again when it has died.

Belongs to one event loop. It knows no requests: who asks vLLM says when something came of it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from serving.vllm_engine.client import ConnectionBrokenError, VllmClient
from serving.vllm_engine.metrics import cache_usage
from serving.vllm_engine.process import VllmProcess
from serving.vllm_engine.reasons import why_it_ended
from tasks.contract.errors import EngineEnded, KaitoflowError
from tasks.contract.programs.serving import ServerConfig

log = logging.getLogger(__name__)

_READY_EVERY_S = 0.25
_LOOK_EVERY_S = 1.0
_HEALTH_EVERY_S = 5.0
# After it has served for so long, an end counts as the first again.
_STEADY_S = 600.0
# A connection that breaks because it dies is seen before its death is.
_DEATH_S = 2.0
_NEVER_AGAIN = 503  # of its health: what generates behind its API is gone


class Keeper:
    """Keeps a vLLM running.

    client: asks the one that runs; None while none is ready.
    cache_usage: the share of its KV cache in use, as it was told last.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        max_lora_rank: int,
        restore: Callable[[VllmClient], Awaitable[None]],
        is_asked: Callable[[], bool],
    ) -> None:
        """Keep one as configured.

        Args: restore: has one that has just started know what the one before knew.
        is_asked: whether a request is in work, of which something has to come.
        """
        self._config = config
        self._max_lora_rank = max_lora_rank
        self._restore = restore
        self._is_asked = is_asked
        self._process: VllmProcess | None = None
        self._heard_s = 0.0
        self.client: VllmClient | None = None
        self.cache_usage = 0.0

    def heard(self) -> None:
        """Note that something came of a request."""
        self._heard_s = time.monotonic()

    async def begin(self) -> None:
        """Have one that is ready.

        Raises: KaitoflowError: it ended instead, or cannot have what it has to.
        """
        started_s = time.monotonic()
        process = await VllmProcess.start(self._config, max_lora_rank=self._max_lora_rank)
        client, self._process = VllmClient(process), process
        try:
            await self._await_ready(process, client)
            await self._restore(client)
        except ConnectionBrokenError as error:
            await client.close()
            await process.stop()
            raise EngineEnded(
                f"vLLM was to serve {self._config.served_model_name}",
                f"it stopped answering before it was ready ({error})",
                "read its own lines in the server's log",
            ) from error
        except BaseException:
            await client.close()
            await process.stop()
            raise
        self.client = client
        self.heard()
        log.info("vllm ready url=%s seconds=%.1f", process.url, self._heard_s - started_s)

    async def _await_ready(self, process: VllmProcess, client: VllmClient) -> None:
        while await client.health() != 200:
            if not process.is_alive:
                await process.ended()
                raise self._why(process)
            await asyncio.sleep(_READY_EVERY_S)

    def _why(self, process: VllmProcess) -> KaitoflowError:
        asked = f"vLLM was to serve {self._config.served_model_name}"
        return why_it_ended(asked, process.said, exit_code=process.exit_code)

    async def keep(self) -> KaitoflowError:
        """Have it run for as long as it can be had; returns why not any more."""
        deaths = 0
        while True:
            served_from_s = time.monotonic()
            await self._until_it_ends()
            fault = await self._bury()
            deaths = 1 if time.monotonic() - served_from_s > _STEADY_S else deaths + 1
            while deaths <= self._config.vllm.restarts:
                log.error("vllm ended deaths=%d, starting it again: %s", deaths, fault)
                try:
                    await self.begin()
                    break
                except KaitoflowError as error:
                    fault, deaths = error, deaths + 1
            else:
                log.error("vllm ended deaths=%d, giving up: %s", deaths, fault)
                return fault

    async def _until_it_ends(self) -> None:
        """Return when it has ended by itself, or was ended because it generates no more."""
        assert self._process
        assert self.client
        process, client = self._process, self.client
        ended, looked_s = asyncio.ensure_future(process.ended()), 0.0
        while not (await asyncio.wait({ended}, timeout=_LOOK_EVERY_S))[0]:
            now_s = time.monotonic()
            if not self._is_asked():
                self.heard()
            elif now_s - self._heard_s > self._config.vllm.silence_s:
                log.error("vllm hangs seconds=%.0f", now_s - self._heard_s)
                process.kill()
            if now_s - looked_s > _HEALTH_EVERY_S:
                looked_s = now_s
                await self._look(process, client)

    async def _look(self, process: VllmProcess, client: VllmClient) -> None:
        if await client.health() == _NEVER_AGAIN:
            log.error("vllm says that it cannot generate any more")
            process.kill()
        with contextlib.suppress(ConnectionBrokenError):
            self.cache_usage = cache_usage(await client.metrics())

    async def _bury(self) -> KaitoflowError:
        """Leave nothing of one that has ended; why it did."""
        assert self._process
        assert self.client
        client, process, self.client = self.client, self._process, None
        await process.stop()
        await client.close()
        return self._why(process)

    async def has_died(self) -> bool:
        """Whether the one that was asked is gone, or goes within seconds."""
        if self.client is None or self._process is None:
            return True
        if await self.client.health() == _NEVER_AGAIN:
            self._process.kill()
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.ended(), _DEATH_S)
        return not self._process.is_alive

    async def close(self) -> None:
        """End it."""
        client, self.client = self.client, None
        if client is not None:
            await client.close()
        if self._process is not None:
            await self._process.stop()
