"""The ledger of nodes: every node that is wanted is a NodeClaim, written before any is made.

A claim's name follows from its Workspace, so that a look that is a second old makes no node twice.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tasks.contract.errors import KubernetesRefused
from tasks.contract.workspace import ObjectMeta
from tasks.nodes.claims.node_claim import (
    CLAIM,
    WORKSPACE_UID_ANNOTATION,
    is_leaving,
)
from tasks.nodes.provisioner import Fulfiller
from tasks.nodes.shared_look import SharedLook
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.node_affinity import owner_labels
from tasks.platform.wire import Object

logger = logging.getLogger(__name__)


class Ledger:
    """Our NodeClaims; those of others are never seen."""

    def __init__(self, api: Callable[[], Awaitable[KubeApi]], *, fresh_s: float = 1.0) -> None:
        """Connect by `api` to the cluster whose nodes they are; a look will do for `fresh_s`."""
        self._api = api
        self._all = SharedLook(self._find, fresh_s=fresh_s)
        self._given_back = set[str]()

    async def claims(self) -> Sequence[Object]:
        """All of ours, oldest first; none where the cluster knows no NodeClaims."""
        return await self._all()

    async def claims_of(self, meta: ObjectMeta) -> list[Object]:
        """Those of a Workspace, and of no other that had its name before."""
        return [claim for claim in await self._all() if owner_uid(claim) == meta.uid]

    async def _find(self) -> Sequence[Object]:
        try:
            return await self.look()
        except KubernetesRefused as error:
            if error.status != 404:
                raise
            return []

    async def look(self) -> Sequence[Object]:
        """All of ours as they are at this moment; `claims` may be a second behind.

        Raises: KubernetesRefused: the cluster knows no NodeClaims.
        """
        found = await (await self._api()).find(CLAIM, labels=MANAGED_BY)
        return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))

    async def want(self, claim: Object) -> bool:
        """Write a claim; whether it is new. One of its name that is there is kept as it is."""
        is_new = await (await self._api()).create(CLAIM, None, claim) is not None
        self._all.forget()
        if is_new:
            self._given_back.discard(claim["metadata"]["name"])
            logger.info("node claimed claim=%s", claim["metadata"]["name"])
        return is_new

    async def give_back(self, claim: Mapping[str, Any]) -> None:
        """Have a claim deleted; it stays, marked so, until its machine is gone."""
        meta = claim["metadata"]
        self._given_back.add(meta["name"])
        body = {"preconditions": {"uid": meta["uid"]}, "propagationPolicy": "Background"}
        if await (await self._api()).delete(CLAIM, None, meta["name"], body=body):
            logger.info("node given back claim=%s", meta["name"])
        self._all.forget()

    def has_given_back(self, name: str) -> bool:
        """Whether this process had the last claim of that name deleted."""
        return name in self._given_back

    async def let_go(self, claims: Sequence[Mapping[str, Any]], fulfiller: Fulfiller) -> None:
        """Forget the claims that were given back, once their machines are gone."""
        for claim in filter(is_leaving, claims):
            if await fulfiller.remove(claim):
                await self._forget(claim, fulfiller.finalizers)

    async def _forget(self, claim: Mapping[str, Any], finalizers: tuple[str, ...]) -> None:
        meta = claim["metadata"]
        left = [each for each in meta.get("finalizers", []) if each not in finalizers]
        if left != meta.get("finalizers", []):
            patch = {
                "metadata": {
                    "uid": meta["uid"],
                    "resourceVersion": meta["resourceVersion"],
                    "finalizers": left,
                }
            }
            await (await self._api()).merge(CLAIM, None, meta["name"], patch)
            self._all.forget()

    async def hand_over(self, claim: Mapping[str, Any], heir: ObjectMeta) -> None:
        """Let a claim be another Workspace's, which still runs on its node."""
        meta = claim["metadata"]
        patch = {
            "metadata": {
                "uid": meta["uid"],
                "labels": owner_labels(heir),
                "annotations": {WORKSPACE_UID_ANNOTATION: heir.uid},
            }
        }
        await (await self._api()).merge(CLAIM, None, meta["name"], patch)
        self._all.forget()
        logger.info("node handed over claim=%s to=%s", meta["name"], heir)


def owner_uid(claim: Mapping[str, Any]) -> str:
    """The uid of the Workspace that a claim is for."""
    return str(claim["metadata"].get("annotations", {}).get(WORKSPACE_UID_ANNOTATION, ""))
