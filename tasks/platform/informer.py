"""Objects of a cluster as they are now: one list and one watch a kind, however many runs wait."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping

from tasks.contract.errors import KaitoflowError
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object

logger = logging.getLogger(__name__)

_BULKY = ("args", "command", "env", "securityContext", "volumeMounts")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


class Informer:
    """The objects of one kind with certain labels.

    A watch that breaks goes on from where it was; one that is too old is replaced by a new list.
    """

    def __init__(
        self,
        api: KubeApi,
        kind: str,
        *,
        labels: Mapping[str, str],
        key: Callable[[Object], Hashable],
    ) -> None:
        """Wake, at each change, those that wait for the key that `key` gives."""
        self._api, self._kind, self._labels, self._key = api, kind, labels, key
        self._objects: dict[str, Object] = {}
        self._by_key: dict[Hashable, set[str]] = defaultdict(set)
        self._changed: dict[Hashable, asyncio.Event] = {}
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the first list is here; calling again changes nothing."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep_current(), name=f"informer {self._kind}")
        await self._synced.wait()

    async def stop(self) -> None:
        """End the watch."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def select(self, key: Hashable) -> list[Object]:
        """The objects of a key, oldest first."""
        found = [self._objects[uid] for uid in self._by_key.get(key, ())]
        return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))

    async def wait(self, key: Hashable, *, timeout_s: float) -> None:
        """Return at the next change of a key's objects, or when the time is over."""
        changed = self._changed.setdefault(key, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await changed.wait()

    async def _keep_current(self) -> None:
        pause_s = _FIRST_PAUSE_S
        version = ""
        while True:
            try:
                version = version or await self._list()
                async for kind, seen in self._api.watch(
                    self._kind, None, labels=self._labels, version=version
                ):
                    version = seen["metadata"]["resourceVersion"]
                    pause_s = _FIRST_PAUSE_S
                    self._take(kind, seen)
            except KaitoflowError as error:
                logger.warning("watch broken kind=%s: %s", self._kind, error)
                version = ""
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _list(self) -> str:
        found, version = await self._api.find_with_version(self._kind, None, labels=self._labels)
        gone = set(self._objects) - {each["metadata"]["uid"] for each in found}
        for uid in gone:
            self._take("DELETED", self._objects[uid])
        for each in found:
            self._take("MODIFIED", each)
        self._synced.set()
        return version

    def _take(self, kind: str, seen: Object) -> None:
        if kind == "BOOKMARK":
            return
        uid, key = seen["metadata"]["uid"], self._key(seen)
        _drop_bulk(seen)
        if kind == "DELETED":
            self._objects.pop(uid, None)
            self._by_key[key].discard(uid)
            if not self._by_key[key]:
                del self._by_key[key]
        else:
            self._objects[uid] = seen
            self._by_key[key].add(uid)
        changed = self._changed.pop(key, None)
        if changed:
            changed.set()


def _drop_bulk(seen: Object) -> None:
    """Forget what nobody asks for: most of a Job and of its pod, kept for hundreds of runs."""
    seen["metadata"].pop("managedFields", None)
    spec = seen.get("spec") or {}
    spec.pop("template", None)
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        for field in _BULKY:
            container.pop(field, None)
