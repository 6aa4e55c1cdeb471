"""A subscription's quota as a limit of Prefect's, for who looks there; it holds nobody back.

The ledger does: a slot of Prefect's is lost for ever when its server forgets who holds it.
"""

import asyncio
import logging

from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

from tasks.nodes.aks.quota import Quota

logger = logging.getLogger(__name__)

_SHOWN_IN_S = 10.0  # Prefect's client would ask a server that is away for minutes
_shown: dict[str, tuple[int, int]] = {}


def limit_name(quota: Quota, location: str) -> str:
    """The limit of a family in a region; Azure spells some with blanks."""
    return f"kaitoflow-quota-{location}-{'-'.join(quota.family.split())}"


async def show_quota(quota: Quota, location: str, coming: int) -> None:
    """Have Prefect show how many cores there may be, and how many are used or on their way.

    What is shown already is not sent again; what cannot be shown is logged.
    """
    name, taken = limit_name(quota, location), quota.used + coming
    if _shown.get(name) == (quota.limit, taken):
        return
    try:
        async with asyncio.timeout(_SHOWN_IN_S), get_client() as client:
            await client.upsert_global_concurrency_limit_by_name(name, quota.limit)
            await client.update_global_concurrency_limit(
                name, GlobalConcurrencyLimitUpdate(active_slots=taken)
            )
    except Exception as error:  # noqa: BLE001  Prefect's client raises many, and none is to matter
        logger.warning("quota not shown limit=%s: %s", name, error)
        return
    _shown[name] = (quota.limit, taken)
