"""What is written into the ledger of nodes is seen at once, whoever fulfils it."""

from typing import Any

from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.karpenter import KarpenterFulfiller
from tasks.nodes.claims.ledger import Ledger, owner_uid
from tasks.platform.wire import name_of
from tests.nodes.sharing import Api

OURS, THEIRS = "kaitoflow.io/machine", "karpenter.sh/termination"


class Merging(Api):
    """An API server in memory that keeps what is merged into its claims."""

    async def merge(self, _kind: str, _namespace: None, name: str, patch: dict[str, Any]) -> None:
        meta = self.claims[name]["metadata"]
        assert patch["metadata"].pop("uid") == meta["uid"]
        meta |= patch["metadata"]


class OwnFulfiller(KarpenterFulfiller):
    """Takes machines back by a finalizer of ours."""

    finalizers: tuple[str, ...] = (OURS,)


def ledger() -> tuple[Ledger, Merging]:
    """A ledger that looks once an hour, unless something has changed."""
    api = Merging()

    async def connected() -> Any:
        return api

    return Ledger(connected, fresh_s=3600), api


def claim(name: str = "a") -> dict[str, Any]:
    meta = {"name": name, "annotations": {}, "resourceVersion": "1", "finalizers": [THEIRS, OURS]}
    return {"metadata": meta}


async def names(of: Ledger) -> list[str]:
    return [name_of(each) for each in await of.claims()]


async def test_a_claim_that_was_written_is_seen_at_once() -> None:
    claims, _ = ledger()
    assert await names(claims) == []
    assert await claims.want(claim())
    assert await names(claims) == ["a"]
    assert not await claims.want(claim())


async def test_a_claim_that_was_given_back_is_seen_to_go_at_once() -> None:
    claims, api = ledger()
    await claims.want(claim())
    [before] = await claims.claims()
    # What was seen is a copy, as it is of a real API server.
    api.claims["a"] = before | {"metadata": {**before["metadata"]}}
    await claims.give_back(before)
    assert "deletionTimestamp" in (await claims.claims())[0]["metadata"]


async def test_what_was_given_back_is_let_go_by_its_own_finalizer_alone() -> None:
    claims, api = ledger()
    for name in ("going", "staying"):
        await claims.want(claim(name))
    await claims.give_back(api.claims["going"])
    await claims.let_go(await claims.claims(), OwnFulfiller())
    left = {name: each["metadata"]["finalizers"] for name, each in api.claims.items()}
    assert left == {"going": [THEIRS], "staying": [THEIRS, OURS]}


async def test_what_somebody_else_fulfils_is_theirs_to_let_go() -> None:
    claims, api = ledger()
    await claims.want(claim())
    await claims.give_back(api.claims["a"])
    await claims.let_go(await claims.claims(), KarpenterFulfiller())
    assert api.claims["a"]["metadata"]["finalizers"] == [THEIRS, OURS]
    assert await KarpenterFulfiller().remove(api.claims["a"]) is True
    assert await KarpenterFulfiller().machines() == ()


async def test_a_node_that_is_handed_over_is_its_heir_s() -> None:
    claims, api = ledger()
    await claims.want(claim())
    heir = ObjectMeta(name="heir", namespace="team", uid="7")
    assert await claims.claims_of(heir) == []
    await claims.hand_over(api.claims["a"], heir)
    [inherited] = await claims.claims_of(heir)
    assert owner_uid(inherited) == "7"
    assert "heir" in inherited["metadata"]["labels"].values()
