"""What a quota has room for, with what is claimed and not counted by the cloud yet."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.errors import CloudUnavailable
from tasks.nodes.aks.quota import Quota, Quotas
from tasks.nodes.aks.room import QuotaRoom
from tasks.nodes.claims.node_claim import node_claim
from tasks.nodes.offers import Offer
from tests.builders import tuning_workspace

A100 = Offer(instance_type="Standard_NC24ads_A100_v4")
TWO_A100 = Offer(instance_type="Standard_NC48ads_A100_v4")
SPOT = replace(A100, capacity_type="spot")
FAMILY = "StandardNCADSA100v4Family"


def quotas(*, used: int = 0, limit: int = 96) -> Quotas:
    mine = Quota(family=FAMILY, used=used, limit=limit)
    spot = Quota(family="lowPriorityCores", used=0, limit=24)
    none = Quota(family="standardNCSv3Family", used=0, limit=0)
    known = {each.family.lower(): each for each in (mine, spot, none)}
    return Quotas(location="westeurope", by_family=known)


class Azure:
    """What the subscription may use, asked again and again; and what was shown of it."""

    def __init__(self, *answers: Quotas | CloudUnavailable) -> None:
        self.answers = [*answers]
        self.shown: dict[str, tuple[int, int, int]] = {}

    async def read(self) -> Quotas:
        answer = self.answers.pop(0)
        if isinstance(answer, CloudUnavailable):
            raise answer
        return answer

    async def show(self, quota: Quota, location: str, coming: int) -> None:
        assert location == "westeurope"
        self.shown[quota.family] = (quota.limit, quota.used, coming)

    def room(self, fresh_s: float = 0) -> QuotaRoom:
        return QuotaRoom(self.read, show=self.show, fresh_s=fresh_s)


def claim(offer: Offer, *, steps: int = 0, is_leaving: bool = False) -> dict[str, Any]:
    """A claim that has come so far: launched, registered, initialized."""
    made = node_claim(tuning_workspace(), offer, slot=0, disk_gib=100)
    done = ("Launched", "Registered", "Initialized")[:steps]
    made["status"] = {"conditions": [{"type": each, "status": "True"} for each in done]}
    if is_leaving:
        made["metadata"]["deletionTimestamp"] = "2026-11-30T00:00:00Z"
    return made


async def test_what_is_left_may_be_claimed() -> None:
    assert await Azure(quotas(used=72)).room().lack(A100, 1, []) == ""


@pytest.mark.parametrize(("offer", "count"), [(A100, 2), (TWO_A100, 1)])
async def test_what_is_more_than_is_left_waits_and_is_told(offer: Offer, count: int) -> None:
    told = await Azure(quotas(used=72)).room().lack(offer, count, [])
    assert told == f"48 cores of {FAMILY} are needed in westeurope, 72 of 96 are used"


@pytest.mark.parametrize("steps", [0, 1])
async def test_a_machine_that_is_on_its_way_counts_before_the_cloud_counts_it(steps: int) -> None:
    told = await Azure(quotas(used=72)).room().lack(A100, 1, [claim(A100, steps=steps)])
    assert told == (
        f"24 cores of {FAMILY} are needed in westeurope, 72 of 96 are used, 24 more are on "
        "their way"
    )


@pytest.mark.parametrize(
    "other",
    [
        claim(A100, steps=2),
        claim(A100, is_leaving=True),
        claim(SPOT),
        claim(Offer(instance_type="x")),
    ],
    ids=["a node by now", "on its way back", "of another quota", "of no family"],
)
async def test_other_claims_take_no_room(other: dict[str, Any]) -> None:
    assert await Azure(quotas(used=72)).room().lack(A100, 1, [other]) == ""


async def test_spot_machines_of_all_families_share_one_quota() -> None:
    told = (
        await Azure(quotas()).room().lack(SPOT, 1, [claim(replace(TWO_A100, capacity_type="spot"))])
    )
    assert told.startswith("24 cores of lowPriorityCores are needed")


@pytest.mark.parametrize(
    "offer", [Offer(instance_type="Standard_NC6s_v2"), Offer(instance_type="Standard_ND96asr_v4")]
)
async def test_of_what_no_quota_is_known_nobody_waits(offer: Offer) -> None:
    assert await Azure(quotas()).room().lack(offer, 99, []) == ""


async def test_a_quota_that_cannot_be_read_stops_nobody_and_is_asked_for_again() -> None:
    away = CloudUnavailable("the quotas were listed", "there was no answer", "wait")
    room = Azure(away, quotas(used=96)).room(fresh_s=60)
    assert await room.lack(A100, 1, []) == ""
    for _ in range(2):  # what was seen will do for a while
        assert "96 of 96 are used" in await room.lack(A100, 1, [])


async def test_each_look_is_shown() -> None:
    azure = Azure(quotas(used=72))
    await azure.room().lack(A100, 1, [claim(A100)])
    assert azure.shown == {FAMILY: (96, 72, 24)}


async def test_every_quota_of_the_catalogue_s_families_is_shown_that_is_one() -> None:
    azure = Azure(quotas(used=24))
    await azure.room().show_all([claim(SPOT)])
    assert azure.shown == {FAMILY: (96, 24, 0), "lowPriorityCores": (24, 0, 24)}
