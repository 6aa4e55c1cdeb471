"""Azure's own client against a server that answers, and fails, as Azure does."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.containerservice.aio import ContainerServiceClient

from tasks.contract.errors import (
    CloudDenied,
    CloudUnavailable,
    InsufficientCapacity,
    InsufficientQuota,
    KaitoflowError,
    SkuNotAvailable,
)
from tasks.nodes.aks.agent_pools import AgentPools, AksCluster, failure_of
from tests.nodes.arm import CLUSTER, GROUP, SUBSCRIPTION, Arm, Fault, running_arm

SIZE = "Standard_NC24ads_A100_v4"
BODY: dict[str, Any] = {"properties": {"count": 1, "vmSize": SIZE}}


class Token:
    """A credential that is never asked: the server wants none, and speaks no TLS."""

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        raise AssertionError("no token is needed")


def client_of(arm: Arm) -> ContainerServiceClient:
    """Azure's client, pointed at the server by its own settings; it waits for no retry."""
    return ContainerServiceClient(
        cast("AsyncTokenCredential", Token()),
        SUBSCRIPTION,
        arm.url,
        credential_scopes=["scope"],
        authentication_policy=SansIOHTTPPolicy(),
        retry_backoff_factor=0,
        retry_total=2,
    )


@pytest.fixture
async def arm() -> AsyncIterator[Arm]:
    """No pool is there, and nothing fails."""
    async with running_arm(Arm()) as running:
        yield running


@pytest.fixture
async def pools(arm: Arm) -> AsyncIterator[AgentPools]:
    """The cluster's pools."""
    async with client_of(arm) as client:
        yield AgentPools(client, AksCluster(resource_group=GROUP, name=CLUSTER))


async def test_a_pool_is_made_looked_up_listed_and_removed(arm: Arm, pools: AgentPools) -> None:
    assert await pools.get("ws1") is None
    assert await pools.begin_create("ws1", BODY)
    await arm.quiet()
    pool = await pools.get("ws1")
    assert pool
    assert pool.properties
    assert pool.properties.provisioning_state == "Succeeded"
    assert [each.name for each in await pools.all()] == ["ws1"]
    assert await pools.begin_delete("ws1")
    await arm.quiet()
    assert await pools.get("ws1") is None
    assert await pools.begin_delete("ws1")


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "OperationNotAllowed"), (412, "EtagMismatch")],
)
async def test_a_busy_cluster_is_asked_later(
    arm: Arm, pools: AgentPools, status: int, code: str
) -> None:
    arm.fault("PUT", Fault(status, code))
    assert not await pools.begin_create("ws1", BODY)
    assert await pools.begin_create("ws1", BODY)
    arm.fault("DELETE", Fault(status, code))
    assert not await pools.begin_delete("ws1")


async def test_too_many_calls_are_waited_out_as_long_as_azure_says(
    arm: Arm, pools: AgentPools
) -> None:
    arm.fault("GET", Fault(429, "TooManyRequests", headers={"Retry-After": "1"}))
    assert await pools.get("ws1") is None
    assert arm.calls["GET"] == 2


@pytest.mark.parametrize(
    ("status", "code", "error", "fix"),
    [
        (400, "InsufficientVCPUQuota", InsufficientQuota, "ask Azure for more cores"),
        (400, "ErrCode_InsufficientVCPUQuota", InsufficientQuota, "ask Azure for more cores"),
        (403, "QuotaExceeded", InsufficientQuota, "ask Azure for more cores"),
        (400, "SkuNotAvailable", SkuNotAvailable, "name another instance type"),
        (400, "AllocationFailed", InsufficientCapacity, "wait, or name another"),
        (400, "ZonalAllocationFailed", InsufficientCapacity, "wait, or name another"),
        (403, "AuthorizationFailed", CloudDenied, "give kaitoflow's identity the role"),
        (401, "ExpiredAuthenticationToken", CloudDenied, "give kaitoflow's identity the role"),
        (400, "InvalidParameter", CloudDenied, "give kaitoflow's identity the role"),
    ],
)
async def test_a_refusal_is_told_by_its_code(
    arm: Arm, pools: AgentPools, status: int, code: str, error: type[KaitoflowError], fix: str
) -> None:
    arm.fault("PUT", Fault(status, code, "0 of 24 cores left; see the docs"))
    with pytest.raises(error) as raised:
        await pools.begin_create("ws1", BODY)
    assert raised.value.asked == f"agent pool ws1 of {SIZE} was asked for"
    assert raised.value.found == f"Azure says {code}: 0 of 24 cores left; see the docs"
    assert raised.value.fix.startswith(fix)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("QuotaExceeded", InsufficientQuota),
        ("SkuNotAvailable", SkuNotAvailable),
        ("OverconstrainedZonalAllocationRequest", InsufficientCapacity),
        ("SomethingNew", InsufficientCapacity),
    ],
)
async def test_a_pool_that_failed_later_says_why(
    arm: Arm, pools: AgentPools, code: str, error: type[KaitoflowError]
) -> None:
    arm.fails_with[SIZE] = code
    await pools.begin_create("ws1", BODY)
    await arm.quiet()
    pool = await pools.get("ws1")
    assert pool
    failure = failure_of(pool)
    assert type(failure) is error
    assert f"Azure says {code}: {SIZE} cannot be had" in str(failure)


async def test_an_azure_that_keeps_failing_is_unavailable(arm: Arm, pools: AgentPools) -> None:
    arm.fault("GET", *(Fault() for _ in range(3)))
    with pytest.raises(CloudUnavailable, match="tried again by itself"):
        await pools.get("ws1")
    assert arm.calls["GET"] == 3


async def test_nobody_who_answers_is_unavailable_too(arm: Arm) -> None:
    arm.url = "http://127.0.0.1:1"
    async with client_of(arm) as client:
        pools = AgentPools(client, AksCluster(resource_group=GROUP, name=CLUSTER))
        with pytest.raises(CloudUnavailable, match="agent pool ws1 was looked up; Azure says"):
            await pools.get("ws1")
