"""Which objects were made for each Workspace, and when the first of them was seen."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.nodes.claims.ledger import owner_uid
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY


@dataclass
class Made:
    """The names by the Workspace's uid, and when the first was seen."""

    owner_of: Callable[[Mapping[str, Any]], str]
    names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    seen_s: dict[str, float] = field(default_factory=dict)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, made: Mapping[str, Any]) -> None:
        """Note an object that the API server tells of."""
        owner = self.owner_of(made)
        self.seen_s.setdefault(owner, time.time())
        self.names[owner].add(made["metadata"]["name"])
        self.more.set()

    async def wait_for(self, uids: Sequence[str], *, within_s: float) -> None:
        """Return when there is one for each of the Workspaces."""
        async with asyncio.timeout(within_s):
            while not self.seen_s.keys() >= set(uids):
                self.more.clear()
                await self.more.wait()


def _owner_of_job(job: Mapping[str, Any]) -> str:
    return str(job["metadata"]["ownerReferences"][0]["uid"])


_OWNER_OF = {"Job": _owner_of_job, "NodeClaim": owner_uid}


@contextlib.asynccontextmanager
async def watched(api: KubeApi, kind: str) -> AsyncIterator[Made]:
    """The Jobs or NodeClaims that are made while the context lasts."""
    made = Made(_OWNER_OF[kind])

    async def watch() -> None:
        _, version = await api.find_with_version(kind, None, labels=MANAGED_BY)
        while True:
            async for change, seen in api.watch(kind, None, labels=MANAGED_BY, version=version):
                version = seen["metadata"]["resourceVersion"]
                if change in ("ADDED", "MODIFIED"):
                    made.take(seen)

    task = asyncio.create_task(watch())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
