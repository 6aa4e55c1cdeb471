"""Whether a subscription's quota has room for more machines, as Azure and the ledger tell.

Azure counts a machine some time after it was claimed; until it has joined the cluster its claim
counts, too. So of many runs that begin at once none claims what another has just been promised.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tasks.contract.errors import CloudDenied, CloudUnavailable
from tasks.nodes.aks.quota import Quota, Quotas
from tasks.nodes.claims.node_claim import is_leaving, offer_of, state_of
from tasks.nodes.offers import Offer
from tasks.nodes.shared_look import SharedLook
from tasks.platform.wire import Seen
from tasks.skus import catalogue

logger = logging.getLogger(__name__)

_FRESH_S, _ANSWER_S = 15.0, 10.0

# Told of a quota, its region, and the cores that are on their way.
Shower = Callable[[Quota, str, int], Awaitable[None]]


class QuotaRoom:
    """The room that is left; see `tasks.nodes.provisioner.Room`."""

    def __init__(
        self, read: Callable[[], Awaitable[Quotas]], *, show: Shower, fresh_s: float = _FRESH_S
    ) -> None:
        """Ask Azure by `read`, whose answer will do for `fresh_s`; what is seen is shown."""

        async def look() -> Sequence[Quotas]:
            return [await read()]

        self._quotas, self._show = SharedLook(look, fresh_s=fresh_s), show

    async def lack(self, offer: Offer, count: int, claims: Sequence[Seen]) -> str:
        """Why so many machines may not be claimed now; empty = they may, or nobody can say."""
        quotas, sku = await self._read(), catalogue().get(offer.instance_type.lower())
        quota = quotas.of(sku, offer) if quotas and sku else None
        if quotas is None or sku is None or quota is None:
            return ""
        coming = _coming(quotas, claims).get(quota.family, 0)
        await self._show(quota, quotas.location, coming)
        needed, left = sku.vcpus * count, max(quota.left - coming, 0)
        if needed <= left:
            return ""
        on_their_way = f", {coming} more are on their way" if coming else ""
        return (
            f"{needed} cores of {quota.family} are needed in {quotas.location}, {quota.used} of "
            f"{quota.limit} are used{on_their_way}"
        )

    async def show_all(self, claims: Sequence[Seen]) -> None:
        """Show the quota of each family of the catalogue that the subscription has one of."""
        if (quotas := await self._read()) is None:
            return
        coming = _coming(quotas, claims)
        offers = [Offer(instance_type=sku.name) for sku in catalogue().values()]
        offers += [Offer(instance_type=each.instance_type, capacity_type="spot") for each in offers]
        seen = {quota.family: quota for each in offers if (quota := _quota_of(quotas, each))}
        for quota in seen.values():
            if quota.limit:
                await self._show(quota, quotas.location, coming.get(quota.family, 0))

    async def _read(self) -> Quotas | None:
        try:
            async with asyncio.timeout(_ANSWER_S):  # whoever claims waits for it
                [quotas] = await self._quotas()
        except (CloudDenied, CloudUnavailable, TimeoutError) as error:
            # A quota that cannot be read stops nobody: Azure itself will say.
            logger.warning("quota not read: %s", error)
            return None
        return quotas


def _coming(quotas: Quotas, claims: Sequence[Seen]) -> Mapping[str, int]:
    """The cores of machines that are claimed and no nodes yet, by the family that they count to."""
    cores: dict[str, int] = {}
    for claim in claims:
        if is_leaving(claim) or state_of(claim).registered:
            continue
        offer = offer_of(claim)
        if quota := _quota_of(quotas, offer):
            vcpus = catalogue()[offer.instance_type.lower()].vcpus
            cores[quota.family] = cores.get(quota.family, 0) + vcpus
    return cores


def _quota_of(quotas: Quotas, offer: Offer) -> Quota | None:
    sku = catalogue().get(offer.instance_type.lower())
    return quotas.of(sku, offer) if sku else None
