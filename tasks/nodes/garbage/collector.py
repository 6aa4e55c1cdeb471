"""Looks for leaked machines and removes them, on a cluster and in its cloud."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime

from tasks.contract.errors import KaitoflowError, KubernetesRefused
from tasks.nodes.claims.ledger import Ledger
from tasks.nodes.garbage.leaks import (
    Evidence,
    Leak,
    PricePerHour,
    Suspects,
    Terms,
    find_leaks,
    given_back,
)
from tasks.nodes.provisioner import Fulfiller, Machine
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object

logger = logging.getLogger(__name__)

# The uids of Workspaces that have a run.
WithRun = Callable[[], Awaitable[AbstractSet[str]]]

# Azure takes minutes to remove a pool; what takes longer the next collection goes on with.
_COLLECT_WITHIN_S = 480.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0


class GarbageCollector:
    """Collects the garbage of one installation; any number may work at the same time."""

    def __init__(
        self,
        api: Callable[[], Awaitable[KubeApi]],
        fulfiller: Fulfiller,
        *,
        price_per_hour: PricePerHour,
        grace_s: float,
        with_run: WithRun | None = None,
    ) -> None:
        """Leave alone what is younger than `grace_s` (see `garbage.leaks.Terms`)."""
        self._api, self._fulfiller, self._ledger = api, fulfiller, Ledger(api)
        self._price_per_hour, self._grace_s = price_per_hour, grace_s
        self._with_run = with_run

    async def leaks(self) -> Sequence[Leak]:
        """What is leaked now.

        Raises: KubernetesUnavailable, KubernetesRefused, CloudUnavailable, CloudDenied: one of the
        listings failed, and nothing can be said.
        """
        suspects, evidence = await self._look()
        return await self._judge(suspects, evidence)

    async def collect(self) -> Sequence[Leak]:
        """Remove what may be removed, and say what that was; returns when it is on its way.

        Raises: as `leaks`, and nothing is removed by a look of which a listing failed; or what
        hindered the removal of one of them, once the others were asked for.
        """
        removed: dict[str, Leak] = {}
        clock, pause_s = asyncio.get_running_loop().time, _FIRST_PAUSE_S
        deadline = clock() + _COLLECT_WITHIN_S
        while True:
            suspects, evidence = await self._look()
            doomed = [e for e in await self._judge(suspects, evidence) if not e.kept_because]
            # Whoever gave them back may be dead; where others fulfil claims, it is theirs to do.
            leaving = given_back(suspects.claims) if self._fulfiller.finalizers else ()
            steps = itertools.chain(
                (self._remove(leak, suspects) for leak in doomed),
                (self._ledger.let_go([claim], self._fulfiller) for claim in leaving),
            )
            failures = [error for step in steps if (error := await _failure_of(step))]
            if failures:
                raise failures[0]
            removed |= {leak.name: leak for leak in doomed}
            if not (doomed or leaving) or clock() > deadline:
                going = removed.keys() - {leak.name for leak in doomed}
                return tuple(removed[name] for name in sorted(going))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _look(self) -> tuple[Suspects, Evidence]:
        """What may be removed, then what says that it is needed, but for pods.

        A run that ends or begins meanwhile is in one of the two answers on runs.
        """
        before = await self._with_run() if self._with_run else set()
        machines = await self._fulfiller.machines()
        suspects = Suspects(machines=machines, claims=await self._claims(machines))
        api = await self._api()
        evidence = Evidence(
            workspaces=await api.find("Workspace"),
            nodes=await api.find("Node"),
            machines=await self._fulfiller.machines() if self._fulfiller.finalizers else None,
            with_run=before | await self._with_run() if self._with_run else None,
        )
        return suspects, evidence

    async def _claims(self, machines: Sequence[Machine]) -> Sequence[Object]:
        try:
            return await self._ledger.look()
        except KubernetesRefused as error:
            # A ledger that was never there is empty; one that is gone is no evidence.
            if error.status != 404 or machines:
                raise
            return ()

    async def _judge(self, suspects: Suspects, evidence: Evidence) -> Sequence[Leak]:
        terms = Terms(
            price_per_hour=self._price_per_hour, grace_s=self._grace_s, now=datetime.now(UTC)
        )
        leaks = find_leaks(suspects, evidence, terms)
        api, pods = await self._api(), list[Object]()
        for node in sorted({node for leak in leaks for node in leak.nodes}):
            pods += await api.find("Pod", fields={"spec.nodeName": node})
        return find_leaks(suspects, replace(evidence, pods=pods), terms)

    async def _remove(self, leak: Leak, suspects: Suspects) -> None:
        logger.info("removing a leak: %s=%s workspace=%s", leak.kind, leak.name, leak.workspace)
        if not leak.is_pool:
            [claim] = [c for c in suspects.claims if c["metadata"]["name"] == leak.name]
            await self._ledger.give_back(claim)
            return
        [machine] = [m for m in suspects.machines if m.name == leak.name]
        claims = await self._claims(suspects.machines)
        if machine.claim not in {claim["metadata"]["name"] for claim in claims}:
            await self._fulfiller.discard(machine)


async def _failure_of(step: Awaitable[None]) -> KaitoflowError | None:
    """What went wrong with one, so that the others still have their turn."""
    try:
        await step
    except KaitoflowError as error:
        logger.warning("not collected: %s", error)
        return error
    return None
