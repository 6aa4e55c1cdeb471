"""The agent pools of an AKS cluster, over Azure's own clients; its errors become ours here, once.

Nothing waits for Azure: a call starts an operation or looks how one stands, and a later look, of
whatever process, goes on from what Azure itself says of the pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.mgmt.containerservice.aio import ContainerServiceClient
from azure.mgmt.containerservice.models import AgentPool

from tasks.contract.errors import (
    CloudDenied,
    CloudUnavailable,
    InsufficientCapacity,
    InsufficientQuota,
    KaitoflowError,
    SkuNotAvailable,
)

# Azure's error codes, which stay when its texts change; "LowPriority" is its older word for spot.
_REASONS: Mapping[str, type[KaitoflowError]] = {
    "QuotaExceeded": InsufficientQuota,
    "InsufficientVCPUQuota": InsufficientQuota,
    "ErrCode_InsufficientVCPUQuota": InsufficientQuota,
    "LowPriorityQuotaExceeded": InsufficientQuota,
    "SkuNotAvailable": SkuNotAvailable,
    "VMSizeNotSupported": SkuNotAvailable,
    "NotAvailableForSubscription": SkuNotAvailable,
    "AvailabilityZoneNotSupported": SkuNotAvailable,
    "AllocationFailed": InsufficientCapacity,
    "ZonalAllocationFailed": InsufficientCapacity,
    "OverconstrainedAllocationRequest": InsufficientCapacity,
    "OverconstrainedZonalAllocationRequest": InsufficientCapacity,
    "AuthorizationFailed": CloudDenied,
    "LinkedAuthorizationFailed": CloudDenied,
    "InvalidAuthenticationToken": CloudDenied,
    "ExpiredAuthenticationToken": CloudDenied,
}
_FIXES: Mapping[type[KaitoflowError], str] = {
    InsufficientQuota: "ask Azure for more cores of this family in this region, or name another "
    "instance type",
    SkuNotAvailable: "name another instance type or zone, or another region's cluster",
    InsufficientCapacity: "wait, or name another instance type or zone",
    CloudDenied: "give kaitoflow's identity the role Azure Kubernetes Service Contributor on the "
    "cluster, and Reader on the subscription for its quotas",
    CloudUnavailable: "it is tried again by itself",
}
# Another operation on the cluster is under way, or the pool changed in between.
_BUSY = (409, 412, 429)


@dataclass(frozen=True, kw_only=True)
class AksCluster:
    """Which cluster's pools they are."""

    resource_group: str
    name: str


class AgentPools:
    """The agent pools of one cluster."""

    def __init__(self, client: ContainerServiceClient, cluster: AksCluster) -> None:
        """Speak by `client`, which is open and shared by all runs of the process."""
        self._pools = client.agent_pools
        self._at = (cluster.resource_group, cluster.name)

    async def get(self, name: str) -> AgentPool | None:
        """A pool as Azure has it; None when there is none.

        Raises: CloudDenied, CloudUnavailable; so do all the others.
        """
        try:
            return await self._pools.get(*self._at, name)
        except ResourceNotFoundError:
            return None
        except AzureError as error:
            raise translated(error, asked=f"agent pool {name} was looked up") from error

    async def all(self) -> Sequence[AgentPool]:
        """Every pool of the cluster, ours or not."""
        try:
            return [pool async for pool in self._pools.list(*self._at)]
        except AzureError as error:
            raise translated(error, asked="the cluster's agent pools were listed") from error

    async def begin_create(self, name: str, body: Mapping[str, Any]) -> bool:
        """Ask for a pool; whether Azure took it up: False = it is busy, ask again later.

        Raises: InsufficientQuota, SkuNotAvailable, InsufficientCapacity: it will not be made.
        """
        asked = f"agent pool {name} of {body['properties']['vmSize']} was asked for"
        try:
            await self._pools.begin_create_or_update(
                *self._at, name, cast("AgentPool", dict(body)), polling=False
            )
        except HttpResponseError as error:
            if error.status_code in _BUSY:
                return False
            raise translated(error, asked=asked) from error
        except AzureError as error:
            raise translated(error, asked=asked) from error
        return True

    async def begin_delete(self, name: str) -> bool:
        """Ask for a pool's end; whether Azure took it up, as above."""
        try:
            await self._pools.begin_delete(*self._at, name, polling=False)
        except ResourceNotFoundError:
            return True
        except HttpResponseError as error:
            if error.status_code in _BUSY:
                return False
            raise translated(error, asked=f"agent pool {name} was to go") from error
        except AzureError as error:
            raise translated(error, asked=f"agent pool {name} was to go") from error
        return True


def failure_of(pool: AgentPool) -> KaitoflowError:
    """Why Azure could not make a pool, by the error that it keeps on it."""
    properties = pool.properties
    asked = f"agent pool {pool.name} of {properties.vm_size if properties else ''} was asked for"
    status = properties.status if properties else None
    detail = status.provisioning_error if status else None
    codes = (
        [detail.code or "", *(each.code or "" for each in detail.details or ())] if detail else []
    )
    said = (detail.message or "") if detail else "Azure keeps no reason"
    return _error(codes, said, asked=asked, otherwise=InsufficientCapacity)


def translated(error: AzureError, *, asked: str) -> KaitoflowError:
    """What an error of Azure's client means to a person; by its code, never by its text."""
    if not isinstance(error, HttpResponseError) or error.status_code is None:
        is_login = isinstance(error, ClientAuthenticationError)
        otherwise = CloudDenied if is_login else CloudUnavailable
        return _error([], str(error.message), asked=asked, otherwise=otherwise)
    told = error.error
    codes = [told.code or "", *(each.code or "" for each in told.details or ())] if told else []
    # An error with a status of success is an answer that cannot be read.
    code = error.status_code
    is_theirs = code >= 500 or code < 400 or code in _BUSY
    said = (told.message if told else None) or str(error.message)
    return _error(
        codes, said, asked=asked, otherwise=CloudUnavailable if is_theirs else CloudDenied
    )


def _error(
    codes: Sequence[str], said: str, *, asked: str, otherwise: type[KaitoflowError]
) -> KaitoflowError:
    kind = next((_REASONS[code] for code in codes if code in _REASONS), otherwise)
    code = next((code for code in codes if code), "")
    found = " ".join(f"{code}: {said}".removeprefix(": ").split()).rstrip(".")
    return kind(asked, f"Azure says {found}", _FIXES[kind])
