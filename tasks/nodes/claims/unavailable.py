"""Offers that were refused, remembered by all runs together, so that none is asked for in a loop.

How long is by reason; three refusals within an hour rest an offer until the first is an hour old.
A machine whose GPUs are not counted was paid for: after two of them none is bought again for the
Workspace. The memory is one ConfigMap of the installation: a key for each offer.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tasks.contract.errors import (
    GpuNotReady,
    InsufficientCapacity,
    InsufficientQuota,
    OfferUnavailable,
    SkuNotAvailable,
)
from tasks.nodes.claims.ledger import owner_uid
from tasks.nodes.offers import Offer
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Seen

NAME = "kaitoflow-unavailable-offers"

_HOUR = timedelta(hours=1)
_ATTEMPTS_PER_HOUR = 3
_MACHINES_WITHOUT_GPUS = 2
_WORKSPACES_REMEMBERED = 100
# What Karpenter's Azure provider found to be enough; a time-out may be the machine's own fault.
_REST = {
    InsufficientQuota: _HOUR,
    InsufficientCapacity: _HOUR,
    SkuNotAvailable: timedelta(hours=23),
}
_REST_OTHERWISE = timedelta(minutes=5)
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """What is remembered of one offer: when it was refused, and why it was the last time.

    without_gpus: claims whose machines joined and had none that count, by the uids of the
    Workspaces that they were bought for.
    """

    times: tuple[datetime, ...] = ()
    rests_until: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    reason: str = ""
    message: str = ""
    without_gpus: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def after(
        self, error: OfferUnavailable, *, now: datetime, claim: Seen | None = None
    ) -> "Refusals":
        """What is remembered after one more refusal; of one claim several runs may tell."""
        recent = tuple(time for time in self.times if now - time < _HOUR)
        times = (*recent, now)
        until = now + _REST.get(type(error), _REST_OTHERWISE)
        if len(times) >= _ATTEMPTS_PER_HOUR:
            until = max(until, times[-_ATTEMPTS_PER_HOUR] + _HOUR)
        without_gpus = dict(self.without_gpus)
        if claim and isinstance(error, GpuNotReady):
            bought = without_gpus.pop(owner_uid(claim), [])
            without_gpus[owner_uid(claim)] = [*dict.fromkeys([*bought, claim["metadata"]["uid"]])]
        return Refusals(
            times=times,
            rests_until=until,
            reason=error.reason,
            message=str(error),
            without_gpus=dict([*without_gpus.items()][-_WORKSPACES_REMEMBERED:]),
        )

    def is_resting(self, now: datetime) -> bool:
        """Whether the offer is not to be asked for now."""
        return now < self.rests_until

    def is_over_for(self, workspace_uid: str) -> bool:
        """Whether no more machines are to be bought for the Workspace, until this is forgotten."""
        return len(self.without_gpus.get(workspace_uid, ())) >= _MACHINES_WITHOUT_GPUS


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """The offers that a Workspace cannot have: those that rest, and those that are over for it."""

    resting: Mapping[Offer, Refusals]
    over: Mapping[Offer, Refusals]


class UnavailableOffers:
    """The memory of refused offers, in the installation's namespace."""

    def __init__(
        self,
        api: Callable[[], Awaitable[KubeApi]],
        *,
        namespace: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connect by `api` to the cluster; `clock` tells the time, in UTC."""
        self._api, self._namespace, self._clock = api, namespace, clock

    @property
    def forgetting(self) -> str:
        """What a person does to have all of it forgotten."""
        return f"kubectl delete configmap {NAME} -n {self._namespace}"

    async def look(self, *, workspace_uid: str) -> Unavailable:
        """The offers that are not to be asked for now, for a Workspace."""
        now = self._clock()
        known = _parsed((await self._read())[0])
        over = {offer: seen for offer, seen in known.items() if seen.is_over_for(workspace_uid)}
        resting = {offer: seen for offer, seen in known.items() if seen.is_resting(now)}
        return Unavailable(resting=resting, over=over)

    async def remember(
        self, offer: Offer, error: OfferUnavailable, *, claim: Seen | None = None
    ) -> None:
        """Add a refusal; of several writers at once, each is heard.

        Args: claim: that was made for the offer; None = it is gone.
        """
        for _ in range(_TRIES):
            data, version = await self._read()
            known = _parsed(data)
            before = known.get(offer, Refusals())
            refusals = before.after(error, now=self._clock(), claim=claim)
            if await self._write({_key(offer): _text(offer, refusals)}, version):
                return

    async def _read(self) -> tuple[Mapping[str, str], str]:
        found = await (await self._api()).get("ConfigMap", self._namespace, NAME)
        if found is None:
            return {}, ""
        return found.get("data") or {}, found["metadata"]["resourceVersion"]

    async def _write(self, data: Mapping[str, str], version: str) -> bool:
        """Whether nobody else wrote since that version."""
        metadata = {"name": NAME, "namespace": self._namespace}
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {**data}}
        api = await self._api()
        if not version:
            return await api.create("ConfigMap", self._namespace, manifest) is not None
        patch = {"metadata": {"resourceVersion": version}, "data": {**data}}
        return await api.merge("ConfigMap", self._namespace, NAME, patch) is not None


def _key(offer: Offer) -> str:
    price = "" if offer.max_price is None else f"{offer.max_price:g}"
    parts = (offer.instance_type, offer.capacity_type, "-".join(offer.zones), price)
    return re.sub(r"[^-._a-zA-Z0-9]", "-", ".".join(parts)).strip(".")


def _text(offer: Offer, refusals: Refusals) -> str:
    return json.dumps(
        {
            "instanceType": offer.instance_type,
            "capacityType": offer.capacity_type,
            "zones": offer.zones,
            "maxPrice": offer.max_price,
            "refused": [time.isoformat() for time in refusals.times],
            "restsUntil": refusals.rests_until.isoformat(),
            "reason": refusals.reason,
            "message": refusals.message,
            "withoutGpus": refusals.without_gpus,
        }
    )


def _parsed(data: Mapping[str, str]) -> dict[Offer, Refusals]:
    known = {}
    for text in data.values():
        told = json.loads(text)
        offer = Offer(
            instance_type=told["instanceType"],
            capacity_type=told["capacityType"],
            zones=tuple(told["zones"]),
            max_price=told["maxPrice"],
        )
        known[offer] = Refusals(
            times=tuple(datetime.fromisoformat(time) for time in told["refused"]),
            rests_until=datetime.fromisoformat(told["restsUntil"]),
            reason=told["reason"],
            message=told["message"],
            without_gpus=told.get("withoutGpus", {}),
        )
    return known
