"""What a cluster has of a Workspace is found by what is watched, and asked for no second time."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from flows.watcher.surroundings import Owner, Surroundings
from tasks.platform.kube_api import KubeApi

Object = dict[str, Any]
LABELS = {"kaito.sh/workspace": "web"}
OWNER = {"kind": "Workspace", "name": "web", "uid": "1", "controller": True}


class Cluster:
    """Lists of objects, and what is heard of them afterwards."""

    def __init__(self, **lists: list[Object]) -> None:
        self.lists = lists
        self.heard: dict[str, asyncio.Queue[tuple[str, Object]]] = defaultdict(asyncio.Queue)

    async def find_with_version(
        self, kind: str, _namespace: str | None, **_options: Any
    ) -> tuple[list[Object], str]:
        return self.lists.get(kind, []), "1"

    async def watch(
        self, kind: str, _namespace: str | None, **_options: Any
    ) -> AsyncGenerator[tuple[str, Object]]:
        while True:
            yield await self.heard[kind].get()


def made(name: str, *, owner: Object | None = OWNER, **meta: Any) -> Object:
    """An object with our label in the namespace of the Workspace."""
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"uid of {name}",
        "creationTimestamp": "",
        "resourceVersion": "7",
        "labels": LABELS,
        "ownerReferences": [owner] if owner else [],
    }
    return {"metadata": metadata | meta}


def node(name: str, *, ready: str = "True", **meta: Any) -> Object:
    conditions = [{"type": "Ready", "status": ready, "lastHeartbeatTime": meta.get("uid", "")}]
    told = {"name": name, "uid": name, "creationTimestamp": "", "resourceVersion": "7"}
    return {"metadata": told | meta, "status": {"conditions": conditions}}


def workspace(**status: Any) -> Object:
    metadata = {"name": "web", "namespace": "team", "uid": "1"}
    return {"metadata": metadata, "tuning": {"config": "training"}, "status": status}


@asynccontextmanager
async def watching(
    cluster: Cluster, *, has_claims: bool = False
) -> AsyncIterator[tuple[Surroundings, list[Owner]]]:
    """What is known once all is listed, and whose it was that has changed since."""
    changed: list[Owner] = []
    surroundings = Surroundings(
        cast("KubeApi", cluster), namespaces=(), has_claims=has_claims, on_change=changed.append
    )
    surroundings.begin()
    await asyncio.sleep(0.05)
    surroundings.of(workspace(workerNodes=["gpu-1"]))
    changed.clear()
    try:
        yield surroundings, changed
    finally:
        await surroundings.stop()


async def test_nothing_is_known_before_it_is_listed() -> None:
    surroundings = Surroundings(
        cast("KubeApi", Cluster()), namespaces=(), has_claims=True, on_change=lambda _: None
    )
    around = surroundings.of(workspace())
    assert (around.objects, around.pods, around.nodes, around.claims) == (None,) * 4


async def test_only_objects_of_its_own_that_stay_are_its_objects() -> None:
    strangers = {**OWNER, "uid": "2"}
    services = [
        made("web"),
        made("foreign", owner=None),
        made("another", owner=strangers),
        made("leaving", deletionTimestamp="2026-05-01T12:00:00Z"),
    ]
    async with watching(Cluster(Service=services)) as (surroundings, _):
        objects = surroundings.of(workspace()).objects
    assert objects is not None
    assert list(objects) == [("Service", "web")]


async def test_the_nodes_are_those_that_status_and_pods_name() -> None:
    pod = made("web-0") | {"spec": {"nodeName": "gpu-2", "containers": []}}
    nodes = [node("gpu-1"), node("gpu-2"), node("other")]
    async with watching(Cluster(Pod=[pod], Node=nodes)) as (surroundings, _):
        around = surroundings.of(workspace(workerNodes=["gpu-1", "gone"]))
    assert sorted(around.nodes or ()) == ["gpu-1", "gpu-2"]


async def test_a_claim_is_found_by_the_uid_that_it_is_for() -> None:
    labels = LABELS | {"kaito.sh/workspacenamespace": "team"}
    claims = [
        made("ws1", labels=labels, annotations={"kaitoflow.io/workspace-uid": "1"}),
        made("ws2", labels=labels, annotations={"kaitoflow.io/workspace-uid": "of an earlier web"}),
    ]
    async with watching(Cluster(NodeClaim=claims), has_claims=True) as (surroundings, _):
        assert list(surroundings.of(workspace()).claims or ()) == ["ws1"]


async def test_a_heartbeat_of_a_node_wakes_nobody_and_its_fate_those_that_use_it() -> None:
    cluster = Cluster(Node=[node("gpu-1"), node("other")])
    async with watching(cluster) as (_, changed):
        heartbeat = node("gpu-1", resourceVersion="8")
        heartbeat["status"]["conditions"][0]["lastHeartbeatTime"] = "later"
        cluster.heard["Node"].put_nowait(("MODIFIED", heartbeat))
        cluster.heard["Node"].put_nowait(("MODIFIED", node("other", ready="False")))
        await asyncio.sleep(0.05)
        assert changed == []
        cluster.heard["Node"].put_nowait(("DELETED", node("gpu-1")))
        await asyncio.sleep(0.05)
    assert changed == [("team", "web")]


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        (made("training", labels={}, resourceVersion="8"), ["ConfigMap training"]),
        (made("another", labels={}, resourceVersion="8"), []),
    ],
)
async def test_a_config_map_that_is_named_and_comes_after_a_failure_is_told(
    heard: Object, expected: list[str]
) -> None:
    cluster = Cluster()
    failed = workspace(state="Failed", observedGeneration=1, attempt=0)
    async with watching(cluster) as (surroundings, _):
        assert surroundings.of(failed).changed == []
        cluster.heard["ConfigMap"].put_nowait(("ADDED", heard))
        await asyncio.sleep(0.05)
        assert surroundings.of(failed).changed == expected
        later = workspace(state="Failed", observedGeneration=1, attempt=1)
        assert surroundings.of(later).changed == []


async def test_a_config_map_that_is_corrected_before_the_failure_is_heard_of_is_told_once() -> None:
    cluster = Cluster(ConfigMap=[made("training", labels={}, owner=None)])
    failed = workspace(state="Failed", observedGeneration=1, attempt=0)
    async with watching(cluster) as (surroundings, _):
        surroundings.of(workspace(state="Running"))
        corrected = made("training", labels={}, owner=None, resourceVersion="8")
        cluster.heard["ConfigMap"].put_nowait(("MODIFIED", corrected))
        await asyncio.sleep(0.05)
        surroundings.of(workspace(state="Running"))
        assert surroundings.of(failed).changed == ["ConfigMap training"]
        surroundings.of(workspace(state="Pending"))  # it runs again, with what is there now
        assert surroundings.of(failed).changed == []


async def test_a_config_map_that_is_edited_while_the_workspace_rests_is_no_reason_to_run() -> None:
    cluster = Cluster(ConfigMap=[made("training", labels={}, owner=None)])
    async with watching(cluster) as (surroundings, _):
        surroundings.of(workspace(state="Running"))
        surroundings.of(workspace(state="Ready"))
        edited = made("training", labels={}, owner=None, resourceVersion="8")
        cluster.heard["ConfigMap"].put_nowait(("MODIFIED", edited))
        await asyncio.sleep(0.05)
        surroundings.of(workspace(state="Pending"))
        assert surroundings.of(workspace(state="Failed", attempt=0)).changed == []


ROWS = {"volumeSource": {"persistentVolumeClaim": {"claimName": "rows"}}}
CLAIM, QUOTA, LIMITS = "PersistentVolumeClaim", "ResourceQuota", "LimitRange"


def failed_for(reason: str) -> Object:
    """A Workspace with its rows in a volume that has failed for this reason."""
    conditions = [{"type": "Accepted", "status": "False", "reason": reason}]
    status = {"state": "Failed", "observedGeneration": 1, "attempt": 0, "conditions": conditions}
    return workspace(**status) | {"tuning": {"input": ROWS, "output": {"image": "r/a:1"}}}


def quota(*, hard: str, used: str) -> Object:
    status = {"hard": {"pods": "9", "cpu": hard}, "used": {"pods": "1", "cpu": used}}
    return made("team", labels={}) | {"status": status}


@pytest.mark.parametrize(
    ("reason", "kind", "before", "event", "expected"),
    [
        ("VolumeUnusable", CLAIM, [], ("ADDED", made("rows")), ["PersistentVolumeClaim rows"]),
        ("VolumeUnusable", CLAIM, [], ("ADDED", made("another")), []),
        (
            "VolumeUnusable",
            CLAIM,
            [made("rows")],
            ("MODIFIED", made("rows", resourceVersion="8")),
            ["PersistentVolumeClaim rows"],
        ),
        ("TrainingDiverged", CLAIM, [], ("ADDED", made("rows")), []),
        (
            "QuotaExceeded",
            QUOTA,
            [quota(hard="2", used="1500m")],
            ("MODIFIED", quota(hard="4", used="1500m")),
            ["ResourceQuota team"],
        ),
        (
            "QuotaExceeded",
            QUOTA,
            [quota(hard="2", used="1500m")],
            ("MODIFIED", quota(hard="2", used="1")),
            ["ResourceQuota team"],
        ),
        (
            "QuotaExceeded",
            QUOTA,
            [quota(hard="2", used="1")],
            ("MODIFIED", quota(hard="2", used="1500m")),
            [],
        ),
        (
            "QuotaExceeded",
            QUOTA,
            [quota(hard="2", used="1")],
            ("DELETED", quota(hard="2", used="1")),
            ["ResourceQuota team"],
        ),
        (
            "PodForbidden",
            LIMITS,
            [made("small")],
            ("MODIFIED", made("small", resourceVersion="8")),
            ["LimitRange small"],
        ),
    ],
    ids=[
        "claim made",
        "another claim",
        "claim bound",
        "not for want of it",
        "quota raised",
        "quota freed",
        "quota used",
        "quota gone",
        "limits changed",
    ],
)
async def test_what_others_make_is_told_to_the_workspace_that_failed_for_want_of_it(
    reason: str,
    kind: str,
    before: list[Object],
    event: tuple[str, Object],
    expected: list[str],
) -> None:
    cluster, failed = Cluster(**{kind: before}), failed_for(reason)
    async with watching(cluster) as (surroundings, changed):
        assert surroundings.of(failed).changed == []
        cluster.heard[kind].put_nowait(event)
        await asyncio.sleep(0.05)
        assert surroundings.of(failed).changed == expected
    assert {*changed} == {("team", "web")}  # at once, and not at the next look at all


async def test_a_node_that_gets_a_label_is_told_to_those_that_have_waited_for_one() -> None:
    cluster = Cluster(Node=[node("gpu-1")])
    conditions = [{"type": "NodesReady", "status": "False", "reason": "NodeNotReady"}]
    waited = workspace(state="Failed", observedGeneration=1, attempt=0, conditions=conditions)
    failed = workspace(state="Failed", observedGeneration=1, attempt=0)
    async with watching(cluster) as (surroundings, _):
        assert surroundings.of(waited).changed == []
        cluster.heard["Node"].put_nowait(("MODIFIED", node("gpu-1", labels={"apps": "tuning"})))
        await asyncio.sleep(0.05)
        assert surroundings.of(waited).changed == ["the cluster's nodes"]
        assert surroundings.of(failed).changed == []
