"""One leader among the replicas, by a Lease of the cluster.

Home-made, since the client library's own (kubernetes.aio 37.0) cannot create a Lease: it passes a
boolean where its generated API wants a text.
"""

import asyncio
import logging
from datetime import UTC, datetime

from tasks.contract.errors import KaitoflowError, LeadershipLost
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object

logger = logging.getLogger(__name__)

LEASE_NAME = "kaitoflow-watcher"
_GIVE_UP_S = 5.0


class Lease:
    """The Lease that a replica holds while it leads."""

    def __init__(self, api: KubeApi, *, namespace: str, identity: str, lease_s: int) -> None:
        """Believe for `lease_s` that a holder leads that says nothing."""
        self._api, self._namespace, self._identity = api, namespace, identity
        self._lease_s = lease_s
        self._seen: tuple[str, float] = ("", 0.0)

    async def acquire(self) -> None:
        """Return when this replica leads."""
        while not await self._try():
            await asyncio.sleep(self._lease_s / 5)

    async def keep(self) -> None:
        """Renew for ever.

        Raises: LeadershipLost: another replica leads, or the API server was away for too long.
        """
        now = asyncio.get_running_loop().time
        renewed_s = now()
        while now() - renewed_s < self._lease_s * 2 / 3:
            await asyncio.sleep(self._lease_s / 5)
            try:
                async with asyncio.timeout(self._lease_s / 3):
                    if not await self._try():
                        break
                renewed_s = now()
            except (KaitoflowError, TimeoutError) as error:
                logger.warning("lease not renewed: %s", error)
        raise LeadershipLost(
            f"{self._identity} was to lead",
            f"the Lease {self._namespace}/{LEASE_NAME} could not be renewed, so another replica "
            "may lead by now",
            "start again to follow it",
        )

    async def give_up(self) -> None:
        """Let another replica lead at once, if this one does.

        A renewal that was cancelled on its way may still come to pass, and is given up as well.
        """
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                while (held := await self._held()) is not None:
                    body = self._manifest(held, holder="")
                    await self._api.merge("Lease", self._namespace, LEASE_NAME, body)
        except (KaitoflowError, TimeoutError) as error:
            logger.warning("lease not given up, it ends in %d s: %s", self._lease_s, error)

    async def _held(self) -> str | None:
        """The version of the Lease while it is this replica's."""
        lease = await self._api.get("Lease", self._namespace, LEASE_NAME)
        if lease is None or lease["spec"].get("holderIdentity") != self._identity:
            return None
        return str(lease["metadata"]["resourceVersion"])

    async def _try(self) -> bool:
        """Whether this replica holds the Lease now."""
        lease = await self._api.get("Lease", self._namespace, LEASE_NAME)
        if lease is None:
            made = await self._api.create("Lease", self._namespace, self._manifest(""))
            return made is not None
        holder = lease["spec"].get("holderIdentity")
        if holder and holder != self._identity and not self._is_over(lease):
            return False
        version = lease["metadata"]["resourceVersion"]
        taken = await self._api.merge("Lease", self._namespace, LEASE_NAME, self._manifest(version))
        return taken is not None

    def _is_over(self, lease: Object) -> bool:
        """Judge by this machine's clock since the last change seen: others may be wrong."""
        version, now_s = lease["metadata"]["resourceVersion"], asyncio.get_running_loop().time()
        if self._seen[0] != version:
            self._seen = (version, now_s)
        holds_s: int = lease["spec"].get("leaseDurationSeconds", self._lease_s)
        return now_s - self._seen[1] > holds_s

    def _manifest(self, version: str, *, holder: str | None = None) -> Object:
        metadata = {"name": LEASE_NAME, "namespace": self._namespace}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata | ({"resourceVersion": version} if version else {}),
            "spec": {
                "holderIdentity": self._identity if holder is None else holder,
                "leaseDurationSeconds": self._lease_s,
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
