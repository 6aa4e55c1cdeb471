"""One writer at a time for one AKS cluster, of all runs in all processes: a limit of Prefect's."""

from contextlib import AbstractAsyncContextManager

from prefect import get_client
from prefect.concurrency.asyncio import concurrency

_LEASE_S = 60  # the shortest that Prefect gives: a writer that dies lets go after it


async def ensure_writer_limit(cluster: str) -> None:
    """Have the limit on Prefect's server; without it nobody would be held back."""
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(_limit(cluster), 1)


def one_writer(cluster: str) -> AbstractAsyncContextManager[None]:
    """Held while the cluster is written to; others wait for it."""
    return concurrency(_limit(cluster), occupy=1, lease_duration=_LEASE_S)


def _limit(cluster: str) -> str:
    return f"kaitoflow-aks-{cluster}"
