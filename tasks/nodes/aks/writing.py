"""One writer at a time for one AKS cluster, of all runs in all processes: a limit of Prefect's.

It spares Azure's refusals, and no more hangs on it: Prefect's server keeps in its memory who holds
a slot, so that one that starts anew leaves the slot taken for ever.
"""

import contextlib
import logging
from collections.abc import AsyncIterator

from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.concurrency.asyncio import AcquireConcurrencySlotTimeoutError, concurrency

logger = logging.getLogger(__name__)

_LEASE_S = 60  # the shortest that Prefect gives: a writer that dies lets go after it
# Far longer than writers have to wait for each other: each is at it for a few seconds.
_WAIT_S = 300.0


async def ensure_writer_limit(cluster: str) -> None:
    """Have the limit on Prefect's server; without it nobody would be held back."""
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(_limit(cluster), 1)


@contextlib.asynccontextmanager
async def one_writer(cluster: str, *, wait_s: float = _WAIT_S) -> AsyncIterator[None]:
    """Held while the cluster is written to; others wait for it, but not for ever."""
    async with contextlib.AsyncExitStack() as held:
        slot = concurrency(
            _limit(cluster), occupy=1, lease_duration=_LEASE_S, timeout_seconds=wait_s
        )
        try:
            await held.enter_async_context(slot)
        except AcquireConcurrencySlotTimeoutError:
            logger.warning("writer's slot freed, which nobody gave back cluster=%s", cluster)
            async with get_client() as client:
                await client.update_global_concurrency_limit(
                    _limit(cluster), GlobalConcurrencyLimitUpdate(active_slots=0)
                )
        yield  # without a slot, too: Azure itself refuses a second operation


def _limit(cluster: str) -> str:
    return f"kaitoflow-aks-{cluster}"
