"""What an Azure subscription may still use in a region, by families of machines."""

from collections.abc import Mapping
from dataclasses import dataclass

from azure.core.exceptions import AzureError
from azure.mgmt.compute.aio import ComputeManagementClient
from azure.mgmt.compute.models import Usage

from tasks.contract.errors import CloudUnavailable
from tasks.nodes.aks.agent_pools import translated
from tasks.nodes.offers import Offer
from tasks.skus import Sku

# Azure's name for what all spot machines of a region share.
_SPOT = "lowPriorityCores"


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Cores of one family: those in use, and the most there may be."""

    family: str
    used: int
    limit: int

    @property
    def left(self) -> int:
        """Cores that are not in use."""
        return max(self.limit - self.used, 0)


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """A region's quotas."""

    location: str
    by_family: Mapping[str, Quota]

    def of(self, sku: Sku, offer: Offer) -> Quota | None:
        """What such a machine counts against; None when Azure lists no such family."""
        return self.by_family.get(_key(_SPOT if offer.capacity_type == "spot" else sku.family))


async def read_quotas(client: ComputeManagementClient, location: str) -> Quotas:
    """The quotas of a region, as Azure tells them now.

    Raises: CloudDenied; CloudUnavailable: so, too, when the answer cannot be read.
    """
    asked = f"the quotas of {location} were listed"
    try:
        found = [_quota(usage) async for usage in client.usage.list(location)]
    except AzureError as error:
        raise translated(error, asked=asked) from error
    except (AttributeError, TypeError, ValueError) as error:  # the client takes what comes
        raise CloudUnavailable(
            f"{asked}",
            f"Azure's answer cannot be read ({error})",
            "see that it is Azure that answers, and no proxy",
        ) from error
    return Quotas(location=location, by_family={_key(each.family): each for each in found})


def _quota(usage: Usage) -> Quota:
    family = usage.name.value or ""
    return Quota(family=family, used=int(usage.current_value), limit=int(usage.limit))


def _key(family: str) -> str:
    """Azure spells one family in several ways: with and without blanks, large and small."""
    return "".join(family.split()).lower()
