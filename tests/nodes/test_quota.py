"""What a subscription may still use: read by Azure's own client, told by a plan."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tasks.contract.artifacts import Check
from tasks.contract.errors import CloudDenied, CloudUnavailable, KaitoflowError
from tasks.nodes.aks.login import compute_client
from tasks.nodes.aks.quota import Quota, Quotas, read_quotas
from tasks.nodes.offers import Offer
from tasks.plan.findings import Findings
from tasks.plan.nodes import quota
from tasks.settings import Settings
from tasks.skus import find_sku
from tests.builders import tuning_workspace
from tests.nodes.arm import LOCATION, SUBSCRIPTION, Arm, Fault, running_arm

T4 = Offer(instance_type="Standard_NC4as_T4_v3")
SPOT_T4 = Offer(instance_type="Standard_NC4as_T4_v3", capacity_type="spot")
V100 = Offer(instance_type="Standard_NC6s_v3")


@pytest.fixture
async def arm() -> AsyncIterator[Arm]:
    """Azure's quotas, spelled as Azure spells them: not as the families of its sizes."""
    async with running_arm(Arm()) as running:
        running.usages = [
            usage("lowPriorityCores", used=0, limit=3),
            usage("Standard NCASv3_T4 Family", used=6, limit=8),
            usage("standardNCSv3Family", used=0, limit=12),
        ]
        yield running


def usage(family: str, *, used: int, limit: int) -> dict[str, Any]:
    name = {"value": family, "localizedValue": f"{family} vCPUs"}
    return {"name": name, "currentValue": used, "limit": limit, "unit": "Count"}


async def read(arm: Arm) -> Quotas:
    settings = Settings(
        azure_subscription_id=SUBSCRIPTION, azure_location=LOCATION, azure_endpoint=arm.url
    )
    async with compute_client(settings) as client:
        return await read_quotas(client, LOCATION)


def told(found: Quotas | KaitoflowError, *offers: Offer) -> Check:
    """The row of a plan."""
    check = quota(tuning_workspace(), offers, Findings(quotas=found, provisioner="aks"))
    assert check
    return check


@pytest.mark.parametrize(
    "spelled", ["Standard NCASv3_T4 Family", "standardNCASv3_T4Family", "STANDARDNCASV3_T4FAMILY"]
)
async def test_a_family_is_found_however_azure_spells_it(arm: Arm, spelled: str) -> None:
    arm.usages = [usage(spelled, used=6, limit=8)]
    found = (await read(arm)).of(find_sku(T4.instance_type), T4)
    assert found == Quota(family=spelled, used=6, limit=8)
    assert found.left == 2


async def test_spot_machines_share_a_quota_of_their_own(arm: Arm) -> None:
    quotas = await read(arm)
    assert quotas.of(find_sku(SPOT_T4.instance_type), SPOT_T4) == Quota(
        family="lowPriorityCores", used=0, limit=3
    )


async def test_a_family_that_azure_does_not_list_stops_nobody(arm: Arm) -> None:
    arm.usages = []
    check = told(await read(arm), T4)
    assert check.result == "warn"
    assert f"{LOCATION} lists no quota of its family" in check.detail
    assert "in this region, or name another" in check.fix


async def test_too_little_quota_is_told_with_family_left_limit_and_what_to_ask_for(
    arm: Arm,
) -> None:
    check = told(await read(arm), T4)
    assert (check.result, check.reason) == ("warn", "InsufficientQuota")
    assert check.detail == (
        "Standard_NC4as_T4_v3: 2 of 8 cores of Standard NCASv3_T4 Family left in eastus, 4 needed"
    )
    assert "(a limit of 10 for Standard NCASv3_T4 Family, 6 used)" in check.fix


async def test_a_limit_that_is_below_one_machine_refuses(arm: Arm) -> None:
    check = told(await read(arm), SPOT_T4)
    assert (check.result, check.reason) == ("fail", "InsufficientQuota")
    assert "(a limit of 4 for lowPriorityCores, 0 used)" in check.fix


async def test_one_offer_with_quota_is_enough(arm: Arm) -> None:
    assert told(await read(arm), SPOT_T4, V100).result == "ok"


@pytest.mark.parametrize(
    "text",
    [
        "<html>please log in</html>",
        "",
        "[]",
        '{"value": null}',
        '{"value": ["standardNCSv3Family"]}',
        '{"value": [{"currentValue": 0, "limit": 12}]}',
        '{"value": [{"name": {"value": "standardNCSv3Family"}, "limit": 12}]}',
        '{"value": [{"name": {"value": "f"}, "currentValue": 0, "limit": "many"}]}',
    ],
)
async def test_an_answer_that_cannot_be_read_is_said_and_stops_nobody(arm: Arm, text: str) -> None:
    arm.fault("USAGES", Fault(status=200, text=text))
    with pytest.raises(CloudUnavailable, match="the quotas of eastus were listed; Azure") as raised:
        await read(arm)
    check = told(raised.value, T4)
    assert (check.result, check.detail) == ("warn", str(raised.value).rpartition("; ")[0])


@pytest.mark.parametrize(
    ("fault", "error", "fix"),
    [
        (Fault(403, "AuthorizationFailed", "no"), CloudDenied, "Reader on the subscription"),
        (Fault(500), CloudUnavailable, "it is tried again by itself"),
        (Fault(429, "TooManyRequests", "slowly"), CloudUnavailable, "it is tried again by itself"),
    ],
)
async def test_an_azure_that_does_not_tell_is_asked_once_and_stops_nobody(
    arm: Arm, fault: Fault, error: type[KaitoflowError], fix: str
) -> None:
    arm.fault("USAGES", fault)
    with pytest.raises(error, match=fix) as raised:
        await read(arm)
    assert arm.calls["USAGES"] == 1
    assert told(raised.value, T4).result == "warn"
