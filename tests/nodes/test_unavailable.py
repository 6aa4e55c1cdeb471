"""An offer that was refused rests: how long, by the reason; and never more than three an hour."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from tasks.contract.errors import (
    GpuNotReady,
    InsufficientCapacity,
    InsufficientQuota,
    NodeLaunchTimedOut,
    OfferUnavailable,
    SkuNotAvailable,
)
from tasks.nodes.claims.claiming import _nothing_left
from tasks.nodes.claims.unavailable import NAME, Refusals, UnavailableOffers
from tasks.nodes.offers import Offer
from tasks.nodes.provisioner import NodeNeed
from tasks.platform.kube_api import KubeApi

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (InsufficientQuota, HOUR),
        (InsufficientCapacity, HOUR),
        (SkuNotAvailable, 23 * HOUR),
        (NodeLaunchTimedOut, timedelta(minutes=5)),
    ],
)
def test_each_reason_has_its_rest(error: type[OfferUnavailable], rest: timedelta) -> None:
    refused = Refusals().after(error("a", "no", "c"), now=NOW)
    assert refused.is_resting(NOW + rest - timedelta(seconds=1))
    assert not refused.is_resting(NOW + rest)


def test_the_third_refusal_within_an_hour_rests_until_the_first_is_an_hour_old() -> None:
    refused = Refusals()
    for minutes in (0, 10, 20):
        now = NOW + timedelta(minutes=minutes)
        refused = refused.after(NodeLaunchTimedOut("a", "no", "c"), now=now)
    assert refused.is_resting(NOW + timedelta(minutes=59))
    assert not refused.is_resting(NOW + HOUR)


def test_what_is_older_than_an_hour_counts_no_more() -> None:
    refused = Refusals()
    for hours in (0, 2, 4):
        now = NOW + hours * HOUR
        refused = refused.after(NodeLaunchTimedOut("a", "no", "c"), now=now)
    assert len(refused.times) == 1
    assert not refused.is_resting(NOW + 4 * HOUR + timedelta(minutes=5))


def test_a_refusal_of_an_hour_ago_counts_no_more_and_a_younger_one_does() -> None:
    once = Refusals().after(NodeLaunchTimedOut("a", "no", "c"), now=NOW)
    error = NodeLaunchTimedOut("a", "no", "c")
    assert once.after(error, now=NOW + HOUR).times == (NOW + HOUR,)
    almost = NOW + HOUR - timedelta(seconds=1)
    assert once.after(error, now=almost).times == (NOW, almost)


class KeptMap:
    """An API server that keeps one ConfigMap, and lets a number of writes be overtaken."""

    def __init__(self, *, overtaken: int = 0) -> None:
        self.found: dict[str, Any] | None = None
        self.overtaken = overtaken
        self.writes = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("ConfigMap", "system", NAME)
        return self.found

    async def create(self, kind: str, namespace: str, body: dict[str, Any]) -> Any:
        assert (body["apiVersion"], body["kind"], namespace) == ("v1", kind, "system")
        assert body["metadata"] == {"name": NAME, "namespace": "system"}
        return self._write(body["data"])

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Any:
        assert self.found
        assert patch["metadata"] == {"resourceVersion": self.found["metadata"]["resourceVersion"]}
        return self._write(self.found["data"] | patch["data"])

    def _write(self, data: dict[str, str]) -> Any:
        self.writes += 1
        if self.writes <= self.overtaken:
            return None
        self.found = {"metadata": {"resourceVersion": str(self.writes)}, "data": data}
        return self.found


def memory(kept: KeptMap, *, after: timedelta = timedelta(0)) -> UnavailableOffers:
    async def api() -> KubeApi:
        return cast("KubeApi", kept)

    return UnavailableOffers(api, namespace="system", clock=lambda: NOW + after)


SPOT = Offer(instance_type="m", capacity_type="spot", zones=("1", "2"), max_price=1.25)
PLAIN = Offer(instance_type="m")


async def test_a_refused_offer_is_remembered_whole_by_whoever_asks() -> None:
    kept = KeptMap()
    assert (await memory(kept).look(workspace_uid="1")).resting == {}
    for offer in (SPOT, PLAIN):
        await memory(kept).remember(offer, InsufficientCapacity("a", "no", "c"))
    resting = (await memory(kept).look(workspace_uid="1")).resting
    assert set(resting) == {SPOT, PLAIN}
    assert resting[SPOT] == Refusals(
        times=(NOW,), rests_until=NOW + HOUR, reason="InsufficientCapacity", message="a; no; c"
    )
    assert sorted(kept.found["data"] if kept.found else ()) == ["m.on-demand", "m.spot.1-2.1.25"]


async def test_an_offer_that_has_rested_may_be_asked_for_again() -> None:
    kept = KeptMap()
    await memory(kept).remember(PLAIN, InsufficientCapacity("a", "no", "c"))
    assert (await memory(kept, after=HOUR).look(workspace_uid="1")).resting == {}


async def test_a_writer_that_was_overtaken_writes_again() -> None:
    kept = KeptMap(overtaken=3)
    await memory(kept).remember(PLAIN, InsufficientCapacity("a", "no", "c"))
    assert kept.writes == 4
    await memory(kept).remember(PLAIN, InsufficientCapacity("a", "no", "c"))
    resting = (await memory(kept).look(workspace_uid="1")).resting
    assert len(resting[PLAIN].times) == 2


def missed(*uids: str, error: type[OfferUnavailable] = GpuNotReady) -> Refusals:
    """What is remembered of machines that were bought, one a day."""
    refused = Refusals()
    for day, uid in enumerate(uids):
        now = NOW + timedelta(days=day)
        refused = refused.after(error("a", "no", "c"), now=now, claim=bought(uid, str(day)))
    return refused


def bought(workspace_uid: str, uid: str) -> dict[str, Any]:
    annotations = {"kaitoflow.io/workspace-uid": workspace_uid}
    return {"metadata": {"uid": uid, "annotations": annotations}}


@pytest.mark.parametrize(
    ("refused", "is_over"),
    [
        (missed("1"), False),
        (missed("1", "1"), True),
        (missed("1", "2"), False),
        (missed("1", "1", error=InsufficientCapacity), False),
    ],
    ids=["once", "twice", "of another", "for another reason"],
)
def test_two_machines_without_gpus_are_the_last_of_a_workspace(
    refused: Refusals, *, is_over: bool
) -> None:
    assert refused.is_over_for("1") == is_over


def test_one_machine_of_which_two_runs_tell_is_one() -> None:
    refused, claim = Refusals(), bought("1", "claim")
    for _ in range(2):
        refused = refused.after(GpuNotReady("a", "no", "c"), now=NOW, claim=claim)
    assert not refused.is_over_for("1")


def test_of_many_workspaces_the_last_are_remembered() -> None:
    refused = missed(*(str(number) for number in range(150)))
    assert len(refused.without_gpus) == 100
    assert "149" in refused.without_gpus


async def test_who_gets_no_more_of_an_offer_is_remembered_until_it_is_forgotten() -> None:
    kept = KeptMap()
    for uid in "ab":
        error = GpuNotReady("a", "no", "c")
        await memory(kept).remember(PLAIN, error, claim=bought("1", uid))
    later = memory(kept, after=100 * HOUR)
    assert set((await later.look(workspace_uid="1")).over) == {PLAIN}
    assert (await later.look(workspace_uid="2")).over == {}
    assert later.forgetting == f"kubectl delete configmap {NAME} -n system"


def test_where_every_offer_rests_it_is_said_why_and_when_the_first_is_tried_again() -> None:
    resting = {
        Offer(instance_type="big"): Refusals(
            reason="InsufficientQuota", message="no quota", rests_until=NOW + HOUR
        ),
        Offer(instance_type="small", capacity_type="spot"): Refusals(
            reason="SkuNotAvailable", message="not sold", rests_until=NOW + HOUR / 2
        ),
    }
    told = _nothing_left(NodeNeed(nodes=2), resting)
    assert told.reason == "InsufficientQuota"
    assert told.message.startswith(
        "2 node(s) of big, spot small asked for; big: no quota; spot small: not sold; "
        "tried again at 00:30 UTC; "
    )
    assert (told.are_claims_ready, told.is_in_vain) == (False, True)
