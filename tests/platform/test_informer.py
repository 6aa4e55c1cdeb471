"""What is remembered of the pods and Jobs of hundreds of runs: what somebody asks for."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from tasks.contract.errors import KubernetesUnavailable
from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object

META: Object = {"uid": "1", "name": "tuned", "resourceVersion": "7", "creationTimestamp": ""}


class Cluster:
    """One object, of which nothing new is heard."""

    def __init__(self, seen: Object) -> None:
        self.seen = seen

    async def find_with_version(self, *_about: Any, **_options: Any) -> tuple[list[Object], str]:
        return [self.seen], "7"

    async def watch(self, *_about: Any, **_options: Any) -> AsyncGenerator[tuple[str, Object]]:
        await asyncio.Event().wait()
        yield "", {}


async def remembered(**told: Any) -> Object:
    seen = {"metadata": META | {"managedFields": [{"manager": "kaitoflow"}]}, **told}
    api = cast("KubeApi", Cluster(seen))
    informer = Informer(api, "Pod", labels={}, key=lambda _each: "all")
    await informer.start()
    await informer.stop()
    [kept] = informer.select("all")
    return kept


async def test_a_pods_needs_and_its_status_are_kept_and_how_it_is_called_is_not() -> None:
    container = {"name": "tune", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    called = container | {"args": ["config"], "env": [{"name": "HOME", "value": "/tmp"}]}
    status = {"phase": "Running"}
    spec = {"nodeName": "gpu", "initContainers": [called], "containers": [called]}
    assert await remembered(spec=spec, status=status) == {
        "metadata": META,
        "spec": {"nodeName": "gpu", "initContainers": [container], "containers": [container]},
        "status": status,
    }


async def test_of_a_job_the_template_of_its_pods_is_not_kept() -> None:
    kept = await remembered(spec={"backoffLimit": 3, "template": {"spec": {}}}, status={})
    assert kept["spec"] == {"backoffLimit": 3}


def told(uid: str, *, key: str = "one", version: str = "8", created: str = "") -> Object:
    meta = {"uid": uid, "name": uid, "resourceVersion": version, "creationTimestamp": created}
    return {"metadata": meta | {"labels": {"key": key}}}


def key_of(seen: Object) -> str:
    return str(seen["metadata"]["labels"]["key"])


class Outage(Cluster):
    """Lists, each the next; a watch hears what it is given and then breaks, or goes on for ever."""

    def __init__(self, lists: list[list[Object]], watches: list[list[tuple[str, Object]]]) -> None:
        self.lists, self.watches = lists, watches
        self.versions: list[str] = []
        self.is_quiet = asyncio.Event()

    async def find_with_version(self, *_about: Any, **_options: Any) -> tuple[list[Object], str]:
        return self.lists.pop(0), "7"

    async def watch(self, *_about: Any, **options: Any) -> AsyncGenerator[tuple[str, Object]]:
        self.versions.append(options["version"])
        for kind, seen in self.watches.pop(0):
            yield kind, seen
        if self.watches and self.lists:
            raise KubernetesUnavailable(
                "a watch was asked for",
                "it broke",
                "wait",
            )
        if not self.watches:
            self.is_quiet.set()
            await asyncio.Event().wait()


async def after(cluster: Outage) -> Informer:
    """What is remembered once nothing new is heard."""
    informer = Informer(cast("KubeApi", cluster), "Pod", labels={}, key=key_of)
    await informer.start()
    await asyncio.wait_for(cluster.is_quiet.wait(), 10)
    await informer.stop()
    return informer


def names(informer: Informer, key: str = "one") -> list[str]:
    return [each["metadata"]["name"] for each in informer.select(key)]


async def test_what_was_deleted_during_an_outage_is_forgotten() -> None:
    cluster = Outage([[told("a"), told("b")], [told("b")]], [[], []])
    assert names(await after(cluster)) == ["b"]


async def test_what_a_watch_tells_is_remembered_under_its_key_oldest_first() -> None:
    heard = [
        ("ADDED", told("b", created="2")),
        ("ADDED", told("c", created="1")),
        ("ADDED", told("d", key="other")),
        ("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
    ]
    informer = await after(Outage([[]], [heard]))
    assert (names(informer), names(informer, "other")) == (["c", "b"], ["d"])


async def test_what_a_watch_tells_is_deleted_is_forgotten() -> None:
    heard = [("MODIFIED", told("a")), ("DELETED", told("a")), ("DELETED", told("never seen"))]
    assert names(await after(Outage([[told("a"), told("b")]], [heard]))) == ["b"]


async def test_a_watch_that_ends_goes_on_from_where_it_was() -> None:
    cluster = Outage([[]], [[("ADDED", told("a", version="12"))], []])
    assert names(await after(cluster)) == ["a"]
    assert cluster.versions == ["7", "12"]


async def test_who_waits_for_a_key_is_woken_by_its_objects_alone() -> None:
    informer = Informer(cast("KubeApi", None), "Pod", labels={}, key=key_of)
    mine, others = (
        asyncio.create_task(informer.wait(key, timeout_s=10)) for key in ("one", "other")
    )
    await asyncio.sleep(0)
    informer._take("ADDED", told("a"))
    await asyncio.wait_for(mine, 1)
    assert not others.done()
    others.cancel()
    await asyncio.wait_for(informer.wait("one", timeout_s=0.01), 1)


async def test_a_defect_ends_no_watch() -> None:
    cluster = Outage([[{"metadata": {}}], [told("a")]], [[]])  # one that has no uid
    assert names(await after(cluster)) == ["a"]
