"""How this installation speaks to Azure: as whom, and about which cluster."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.identity.aio import (
    AzureCliCredential,
    ChainedTokenCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from azure.mgmt.containerservice.aio import ContainerServiceClient

from tasks.contract.errors import CloudDenied
from tasks.nodes.aks.agent_pools import AgentPools, AksCluster
from tasks.settings import Settings

if TYPE_CHECKING:
    from azure.mgmt.compute.aio import ComputeManagementClient

_RETRIES = 3  # of one call; what still fails is looked at again by the next look


def agent_pools(settings: Settings) -> AgentPools:
    """The pools of the cluster that the settings name.

    Raises: CloudDenied: they do not name one.
    """
    cluster = _cluster(settings)
    return AgentPools(_client(settings, _credential()), cluster)


@contextlib.asynccontextmanager
async def open_agent_pools(settings: Settings) -> AsyncIterator[AgentPools]:
    """Open the agent pools of the settings' cluster for as long as the context lasts."""
    cluster = _cluster(settings)
    async with _credential() as credential, _client(settings, credential) as client:
        yield AgentPools(client, cluster)


def _cluster(settings: Settings) -> AksCluster:
    named = {
        "KAITOFLOW_AZURE_SUBSCRIPTION_ID": settings.azure_subscription_id,
        "KAITOFLOW_AZURE_RESOURCE_GROUP": settings.azure_resource_group,
        "KAITOFLOW_AZURE_CLUSTER": settings.azure_cluster,
    }
    if missing := [name for name, value in named.items() if not value]:
        raise CloudDenied(
            "provisioner aks was asked for",
            "it is not said for which cluster",
            f"set {', '.join(missing)}",
        )
    return AksCluster(resource_group=settings.azure_resource_group, name=settings.azure_cluster)


@contextlib.asynccontextmanager
async def compute_client(settings: Settings) -> AsyncIterator["ComputeManagementClient"]:
    """Return a client that asks what the subscription may use; no retries: it is asked in passing.

    Raises: CloudDenied: the settings do not say of which subscription and region.
    """
    named = {
        "KAITOFLOW_AZURE_SUBSCRIPTION_ID": settings.azure_subscription_id,
        "KAITOFLOW_AZURE_LOCATION": settings.azure_location,
    }
    if missing := [name for name, value in named.items() if not value]:
        raise CloudDenied(
            "the cloud's quota was asked for",
            "it is not said of which region",
            f"set {', '.join(missing)}",
        )
    from azure.mgmt.compute.aio import ComputeManagementClient

    endpoint, options = settings.azure_endpoint or None, _authentication(settings)
    async with (
        _credential() as credential,
        ComputeManagementClient(
            credential, settings.azure_subscription_id, endpoint, retry_total=0, **options
        ) as client,
    ):
        yield client


def _client(settings: Settings, credential: AsyncTokenCredential) -> ContainerServiceClient:
    return ContainerServiceClient(
        credential,
        settings.azure_subscription_id,
        settings.azure_endpoint or None,
        retry_total=_RETRIES,
        **_authentication(settings),
    )


def _authentication(settings: Settings) -> dict[str, Any]:
    """A stand-in for Azure on this machine speaks no TLS, and must not be sent a token."""
    if settings.azure_endpoint.startswith(("http://127.0.0.1:", "http://localhost:")):
        return {"authentication_policy": SansIOHTTPPolicy()}
    return {}


def _credential() -> ChainedTokenCredential:
    """The pod's workload identity, else the machine's, else that of a person's command line."""
    chain: list[AsyncTokenCredential] = [ManagedIdentityCredential(), AzureCliCredential()]
    try:
        return ChainedTokenCredential(WorkloadIdentityCredential(), *chain)
    except ValueError:  # the pod has no workload identity
        return ChainedTokenCredential(*chain)
