"""Objects of a cluster as they are now: one list and one watch a kind, however many runs wait."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable, Mapping

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
        namespaces: Collection[str] = (),
        keep: Callable[[Object], Object] | None = None,
        metadata_only: bool = False,
        on_change: Callable[[Hashable], None] | None = None,
    ) -> None:
        """Wake, at each change, those that wait for the key that `key` gives.

        Args:
            namespaces: where they are; empty = everywhere.
            keep: what is remembered of an object; by default all but what is bulky in a pod or Job.
            metadata_only: hear of nothing else.
            on_change: told the key of each object of which something else is remembered now.
        """
        self._api, self._kind, self._labels, self._key = api, kind, labels, key
        self._keep, self._metadata_only = keep or _without_bulk, metadata_only
        self._on_change = on_change
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._unsynced = set(self._namespaces)
        self._objects: dict[str, Object] = {}
        self._keys: dict[str, Hashable] = {}
        self._uids_in: dict[str | None, set[str]] = defaultdict(set)
        self._by_key: dict[Hashable, set[str]] = defaultdict(set)
        self._changed: dict[Hashable, asyncio.Event] = {}
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the first list is here; calling again changes nothing."""
        self.begin()
        await self._synced.wait()

    def begin(self) -> None:
        """Have the watch begin; `is_synced` tells when the first list is here."""
        if self._task is None or self._task.done():
            watches = [self._keep_current(namespace) for namespace in self._namespaces]
            self._task = asyncio.create_task(_all(watches), name=f"informer {self._kind}")

    @property
    def is_synced(self) -> bool:
        """Whether what is there is known."""
        return self._synced.is_set()

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

    async def _keep_current(self, namespace: str | None) -> None:
        pause_s = _FIRST_PAUSE_S
        version = ""
        while True:
            try:
                version = version or await self._list(namespace)
                async for kind, seen in self._api.watch(
                    self._kind,
                    namespace,
                    labels=self._labels,
                    version=version,
                    metadata_only=self._metadata_only,
                ):
                    version = seen["metadata"]["resourceVersion"]
                    pause_s = _FIRST_PAUSE_S
                    self._take(kind, seen, namespace)
                continue
            except KaitoflowError as error:
                logger.warning("watch broken kind=%s: %s", self._kind, error)
            except Exception:  # a defect; without a watch all would wait for ever, and none be told
                logger.exception("watch broken kind=%s", self._kind)
            version = ""
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _list(self, namespace: str | None) -> str:
        found, version = await self._api.find_with_version(
            self._kind, namespace, labels=self._labels, metadata_only=self._metadata_only
        )
        gone = self._uids_in[namespace] - {each["metadata"]["uid"] for each in found}
        for uid in gone:
            self._forget(uid, namespace)
        for each in found:
            self._take("MODIFIED", each, namespace)
        self._unsynced.discard(namespace)
        if not self._unsynced:
            self._synced.set()
        return version

    def _take(self, kind: str, seen: Object, namespace: str | None = None) -> None:
        if kind == "BOOKMARK":
            return
        uid = seen["metadata"]["uid"]
        if kind == "DELETED":
            self._forget(uid, namespace)
            return
        key, kept = self._key(seen), self._keep(seen)
        before = self._objects.get(uid)
        self._objects[uid], self._keys[uid] = kept, key
        self._by_key[key].add(uid)
        self._uids_in[namespace].add(uid)
        self._wake(key, is_new=kept != before)

    def _forget(self, uid: str, namespace: str | None) -> None:
        if uid not in self._objects:
            return
        del self._objects[uid]
        key = self._keys.pop(uid)
        self._uids_in[namespace].discard(uid)
        self._by_key[key].discard(uid)
        if not self._by_key[key]:
            del self._by_key[key]
        self._wake(key, is_new=True)

    def _wake(self, key: Hashable, *, is_new: bool) -> None:
        if changed := self._changed.pop(key, None):
            changed.set()
        if self._on_change and is_new:
            self._on_change(key)


async def _all(watches: Iterable[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in watches:
            group.create_task(each)


def _without_bulk(seen: Object) -> Object:
    """Forget what nobody asks for: most of a Job and of its pod, kept for hundreds of runs."""
    seen["metadata"].pop("managedFields", None)
    spec = seen.get("spec") or {}
    spec.pop("template", None)
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        for field in _BULKY:
            container.pop(field, None)
    return seen
