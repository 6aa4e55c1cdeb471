"""A Workspace whose run has ended is run again once, and not while another is at work."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from flows.prefect_api import PrefectApi, Run
from flows.watcher.decide import Known, Refuse, decide
from flows.watcher.settings import WatcherSettings
from flows.watcher.watcher import Watcher
from tasks.contract.errors import KubernetesUnavailable
from tasks.contract.repairs import Repairs
from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tasks.contract.workspace import STOPPED_ANNOTATION, ObjectMeta, Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.ownership import fields_digest
from tests.flows.watcher.test_decide import a_status, broken, refused, served, workspace

Object = dict[str, Any]


class ApiServer:
    """Keeps one Workspace; a change of a version that is no more is refused."""

    def __init__(self, manifest: Object) -> None:
        self.manifest, self.events = manifest, list[str]()
        self.manifest["metadata"]["resourceVersion"] = "1"
        self.around: dict[str, list[Object]] = {}
        self.heard: dict[str, asyncio.Queue[tuple[str, Object]]] = defaultdict(asyncio.Queue)
        self.asked = Counter[tuple[str, str | None]]()

    async def get(self, _kind: str, _namespace: str, _name: str) -> Object:
        return self.manifest

    async def merge(self, *about: Any, **_options: Any) -> Object | None:
        patch: Object = about[-1]
        there = self.manifest["metadata"]["resourceVersion"]
        if patch["metadata"].get("resourceVersion", there) != there:
            return None
        told = {key: value for key, value in patch["status"].items() if value is not None}
        self.manifest = self.manifest | {"status": told}
        self.manifest["metadata"] |= {"resourceVersion": str(int(there) + 1)}
        return self.manifest

    async def find_with_version(
        self, kind: str, namespace: str | None, **_options: Any
    ) -> tuple[list[Object], str]:
        self.asked[kind, namespace] += 1
        return self.around.get(kind, []), "1"

    async def watch(
        self, kind: str, _namespace: str | None, **_options: Any
    ) -> AsyncGenerator[tuple[str, Object]]:
        while True:
            yield await self.heard[kind].get()

    async def create(self, kind: str, _namespace: str, body: Object) -> Object:
        assert kind == "Event"
        self.events.append(body["message"])
        return body


class Prefect:
    """Keeps runs by their idempotency keys."""

    def __init__(self, *states: str) -> None:
        self.runs = {f"there {n}": self._run(state) for n, state in enumerate(states)}
        self.asked: list[Mapping[str, Any]] = []
        self.next_state = "SCHEDULED"
        self.said = defaultdict[UUID, list[str]](list)

    def _run(self, state: str) -> Run:
        return Run(id=uuid4(), name="run", state_type=state, state_name=state)

    async def deployment_id(self, _flow: str, _name: str) -> UUID:
        return uuid4()

    async def create_run(self, _deployment: UUID, body: Mapping[str, Any]) -> Run:
        self.asked.append(body)
        made = self._run(self.next_state)
        return self.runs.setdefault(body["idempotency_key"], made)

    async def set_state(self, run: Run, kind: str, *, message: str = "") -> None:
        run.state_type = kind
        self.said[run.id].append(message)
        if kind == "CANCELLING":  # its worker ends it, and says so in words of its own
            await self.set_state(run, "CANCELLED", message="The run was cancelled.")

    async def said_by(self, run: Run) -> list[str]:
        return self.said[run.id]

    async def runs_with(self, _tags: Sequence[str]) -> list[Run]:
        return [*self.runs.values()]


def watcher_of(api: ApiServer, prefect: Prefect, platform: object = None) -> Watcher:
    return Watcher(
        cast("KubernetesPlatform", platform),
        cast("KubeApi", api),
        cast("PrefectApi", prefect),
        WatcherSettings(),
    )


def keys(prefect: Prefect) -> list[str]:
    return [str(body["idempotency_key"]) for body in prefect.asked]


SECRET_MISSING = refused("SecretNotFound")


async def test_one_that_is_due_is_run_again_once_and_tells_why() -> None:
    api, prefect = ApiServer(workspace(SECRET_MISSING)), Prefect("COMPLETED")
    watcher = watcher_of(api, prefect)
    for _ in range(3):
        await watcher.look(api.manifest)
    assert keys(prefect) == ["run-workspace 1 1 1"]
    assert "looked at again: SecretNotFound" in prefect.asked[0]["tags"]
    assert "attempt 1: looked at again: SecretNotFound" in api.events
    status = WorkspaceStatus.model_validate(api.manifest["status"])
    assert (status.state, status.attempt, status.repairs.count) == ("Pending", 1, 1)


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CANCELLING"])
async def test_while_a_run_is_at_work_no_other_begins(state: str) -> None:
    api, prefect = ApiServer(workspace(SECRET_MISSING)), Prefect("COMPLETED", state)
    await watcher_of(api, prefect).look(api.manifest)
    assert (keys(prefect), api.events) == ([], [])
    assert api.manifest["status"]["state"] == "Failed"


async def test_one_that_has_changed_meanwhile_is_left_to_the_next_look() -> None:
    api, prefect = ApiServer(workspace(SECRET_MISSING)), Prefect("COMPLETED")
    seen = api.manifest | {"metadata": api.manifest["metadata"] | {"resourceVersion": "0"}}
    await watcher_of(api, prefect).look(seen)
    assert (keys(prefect), api.events) == ([], [])


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "COMPLETED"])
async def test_a_run_that_has_ended_without_a_word_is_planned_again(state: str) -> None:
    api, prefect = ApiServer(workspace(a_status(State.RUNNING))), Prefect()
    prefect.next_state = state
    await watcher_of(api, prefect).look(api.manifest)
    status = WorkspaceStatus.model_validate(api.manifest["status"])
    assert (status.state, status.attempt) == ("Running", 1)


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING", "RUNNING"])
async def test_a_run_that_was_ended_here_and_told_nothing_is_planned_again(state: str) -> None:
    api, prefect = ApiServer(workspace(a_status(State.RUNNING))), Prefect()
    prefect.next_state = state
    watcher = watcher_of(api, prefect)
    await watcher.look(api.manifest)
    await watcher._runs.cancel(ObjectMeta.model_validate(api.manifest["metadata"]))
    assert [run.state_type for run in prefect.runs.values()] == ["CANCELLED"]
    await watcher_of(api, prefect).look(api.manifest)  # a watcher that has seen none of it
    status = WorkspaceStatus.model_validate(api.manifest["status"])
    assert (status.state, status.attempt) == ("Running", 1)


async def test_a_run_that_a_person_cancelled_before_it_began_is_told_and_not_begun_again() -> None:
    api, prefect = ApiServer(workspace(a_status(State.RUNNING))), Prefect()
    prefect.next_state = "CANCELLED"
    watcher = watcher_of(api, prefect)
    for _ in range(3):
        await watcher.look(api.manifest)
    status = WorkspaceStatus.model_validate(api.manifest["status"])
    assert (status.state, status.attempt, status.reason) == ("Stopped", 0, "Stopped")
    assert keys(prefect) == ["run-workspace 1 1 0"]
    assert any("cancelled in Prefect; run it again to resume" in each for each in api.events)


async def test_a_run_whose_end_is_told_by_now_is_not_planned_again() -> None:
    before = workspace(a_status(State.RUNNING))
    api, prefect = ApiServer(workspace(SECRET_MISSING)), Prefect()
    prefect.next_state = "FAILED"
    before["metadata"]["resourceVersion"] = "0"
    await watcher_of(api, prefect).look(before)
    assert WorkspaceStatus.model_validate(api.manifest["status"]) == SECRET_MISSING


async def test_a_run_that_restores_is_told_the_name_alone_and_found_like_any_other() -> None:
    [refuse] = decide(broken(served(), generation=2), Known(), datetime.now(UTC))
    assert isinstance(refuse, Refuse)
    status, reason = refuse.status, "repair: Service web deleted"
    status.state, status.attempt = State.PENDING, 1
    status.repairs = Repairs(restores=True, reason=reason)
    api, prefect = ApiServer(broken(status, generation=2)), Prefect()
    await watcher_of(api, prefect).look(api.manifest)
    assert keys(prefect) == ["restore-workspace 1 2 1"]
    [asked] = prefect.asked
    assert (asked["parameters"].keys(), asked["parameters"]["metadata"]["name"]) == (
        {"metadata"},
        "tuned",
    )
    assert {"run-workspace", "restore-workspace", "workspace-uid:1", reason} <= {*asked["tags"]}


class Ending:
    """Has pods end, at the second time that it is asked."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self.told_before = list[str]()

    async def end_pods(self, _workspace: Workspace) -> None:
        self.told_before.append(self._api.manifest["status"]["state"])
        if len(self.told_before) == 1:
            raise KubernetesUnavailable("the pods were to end", "no answer", "wait")


async def test_a_stop_is_told_once_its_pods_were_had_end() -> None:
    stop: Object = {"annotations": {STOPPED_ANNOTATION: "1"}}
    api, prefect = ApiServer(workspace(served(), **stop)), Prefect("COMPLETED")
    platform = Ending(api)
    watcher = watcher_of(api, prefect, platform)
    with pytest.raises(KubernetesUnavailable):
        await watcher.look(api.manifest)
    for _ in range(3):
        await watcher.look(api.manifest)
    assert platform.told_before == ["Ready", "Ready"]
    assert api.manifest["status"]["state"] == "Stopped"
    assert set(keys(prefect)) == {"stop-workspace 1 1 0"}


OWNER = {"kind": "Workspace", "name": "tuned", "uid": "1", "controller": True}


async def until(is_so: Callable[[], object]) -> None:
    """Return once it is so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.02)


def of_it(name: str, **content: Any) -> Object:
    """An object of the Workspace's own."""
    meta = {"name": name, "namespace": "team", "uid": name, "creationTimestamp": ""}
    labels = {"kaito.sh/workspace": "tuned"}
    version = {"resourceVersion": "2", "labels": labels, "ownerReferences": [OWNER]}
    return {"metadata": meta | version, **content}


@asynccontextmanager
async def kept_true() -> AsyncIterator[tuple[ApiServer, Prefect, Watcher]]:
    """A Workspace that is served by a Service web, by a pod on a node; all of it is there."""
    service, ready = of_it("web"), {"conditions": [{"type": "Ready", "status": "True"}]}
    pod = of_it("tuned-0", spec={"nodeName": "gpu-1", "containers": []}, status=ready)
    status = served()
    status.objects[0].digest = fields_digest(service)
    status.worker_nodes = ["gpu-1"]
    api, prefect = ApiServer(workspace(status)), Prefect("COMPLETED")
    node = {"metadata": of_it("gpu-1")["metadata"], "status": ready}
    api.around = {"Service": [service], "Pod": [pod], "Node": [node]}
    watcher = watcher_of(api, prefect)
    keeping = asyncio.create_task(watcher.keep_true())
    try:
        await watcher.look(api.manifest)
        yield api, prefect, watcher
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def hear_of_its_end(api: ApiServer, watcher: Watcher) -> None:
    """Have the watch say that the Service is gone, which is told at once."""
    api.heard["Service"].put_nowait(("DELETED", of_it("web")))
    await until(lambda: api.manifest["status"]["state"] != "Ready")
    await watcher.look(api.manifest)


async def test_what_is_deleted_around_one_is_told_first_and_then_run_again() -> None:
    async with kept_true() as (api, prefect, watcher):
        api.around["Service"] = []
        await hear_of_its_end(api, watcher)
        told = WorkspaceStatus.model_validate(api.manifest["status"])
        await until(lambda: prefect.asked)
    assert (told.state, told.reason) == ("NotReady", "ServiceDeleted")
    assert [body["tags"][-1] for body in prefect.asked] == ["repair: Service web deleted"]


@pytest.mark.parametrize(("kind", "name"), [("Service", "web"), ("Pod", "tuned-0")])
async def test_what_only_seems_to_be_deleted_is_asked_for_and_neither_told_nor_run(
    kind: str, name: str
) -> None:
    async with kept_true() as (api, prefect, watcher):
        await until(lambda: ("Pod", "team") in api.asked)
        seen = api.asked.total()
        api.heard[kind].put_nowait(("DELETED", of_it(name)))
        await until(lambda: api.asked.total() > seen)
        await watcher.look(api.manifest)
    told = WorkspaceStatus.model_validate(api.manifest["status"])
    assert (prefect.asked, told.state, told.attempt) == ([], "Ready", 0)
    assert told.is_true(ConditionType.INFERENCE_READY)
