"""Whose runs are taken over: of workers that are gone, and of no other."""

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound

from flows.worker.orphans import Orphans

ME = "me/2"
ALL_GONE_S, NONE_GONE_S = 0.0, 3600.0


class Server:
    """Prefect's server as a worker asks it: runs in hands, and a lock that one may have."""

    def __init__(self, *runs: FlowRun) -> None:
        self.runs = {run.id: run for run in runs}
        self.now = dict(self.runs)  # as they are when each is read again
        self.is_locked, self.lock_is_held = False, False
        self.scheduled: list[UUID] = []
        self.owners: dict[UUID, str] = {}

    async def count_flow_runs(self, **_filters: Any) -> int:
        return len(self.runs)

    async def read_flow_runs(self, *, limit: int, offset: int, **_: Any) -> Sequence[FlowRun]:
        return [*self.runs.values()][offset : offset + limit]

    async def read_workers_for_work_pool(self, _pool: str) -> Sequence[Any]:
        return []

    async def upsert_global_concurrency_limit_by_name(self, _name: str, limit: int) -> None:
        assert limit == 1

    async def increment_concurrency_slots_with_lease(self, *_about: Any) -> httpx.Response:
        request = httpx.Request("POST", "http://prefect")
        if self.is_locked:
            locked = httpx.Response(httpx.codes.LOCKED, request=request)
            raise httpx.HTTPStatusError("locked", request=request, response=locked)
        self.lock_is_held = True
        return httpx.Response(200, json={"lease_id": str(uuid4())}, request=request)

    async def update_global_concurrency_limit(self, _name: str, changed: Any) -> None:
        assert changed.active_slots == 0
        self.is_locked = False

    async def release_concurrency_slots_with_lease(self, _lease: UUID) -> None:
        self.lock_is_held = False

    async def read_flow_run(self, run_id: UUID) -> FlowRun:
        if run_id not in self.now:
            raise ObjectNotFound(http_exc=LookupError())
        return self.now[run_id]

    async def update_flow_run(self, run_id: UUID, *, infrastructure_pid: str) -> None:
        self.owners[run_id] = infrastructure_pid

    async def set_flow_run_state(self, run_id: UUID, state: State[Any], *, force: bool) -> None:
        assert (self.lock_is_held, force, state.name) == (True, True, "AwaitingRetry")
        self.scheduled.append(run_id)


def run_of(owner: str | None, kind: StateType = StateType.RUNNING, **fields: Any) -> FlowRun:
    state: State[Any] = State(type=kind)
    return FlowRun(
        flow_id=uuid4(), state=state, state_id=state.id, infrastructure_pid=owner, **fields
    )


def claimed_by(owner: str) -> FlowRun:
    """A run that was claimed and has not begun."""
    state: State[Any] = State(type=StateType.PENDING, message=f"held by {owner}")
    return FlowRun(flow_id=uuid4(), state=state, state_id=state.id)


async def look(server: Server, *held: UUID, lease_s: float = NONE_GONE_S) -> list[FlowRun]:
    orphans = Orphans(cast("PrefectClient", server), "pool", ME, lease_s=lease_s)
    found = await orphans.take_over(lambda: held)
    assert not server.lock_is_held
    return found


@pytest.mark.parametrize("run", [run_of("me/1"), run_of(ME), claimed_by("me/1")])
async def test_what_an_earlier_start_held_is_taken_at_once(run: FlowRun) -> None:
    server = Server(run)
    assert await look(server) == []
    assert server.scheduled == [run.id]


@pytest.mark.parametrize("run", [run_of("other/1"), claimed_by("other/1"), run_of(None)])
async def test_what_another_worker_held_is_taken_when_its_lease_is_over(run: FlowRun) -> None:
    server = Server(run)
    await look(server)
    assert server.scheduled == []
    await look(server, lease_s=ALL_GONE_S)
    assert server.scheduled == [run.id]


async def test_a_lock_that_stays_taken_far_too_long_is_nobody_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(run := run_of("me/1"))
    server.is_locked, now_s = True, 1000.0
    monkeypatch.setattr("flows.worker.orphans.time.monotonic", lambda: now_s)
    orphans = Orphans(cast("PrefectClient", server), "pool", ME, lease_s=NONE_GONE_S)
    for later_s in (0, 200, 90):
        now_s += later_s
        await orphans.take_over(list)
        assert server.is_locked
    now_s += 20
    for _ in range(2):
        await orphans.take_over(list)
    assert server.scheduled == [run.id]


async def test_what_this_worker_holds_is_no_orphan() -> None:
    run = run_of(ME)
    server = Server(run)
    await look(server, run.id, lease_s=ALL_GONE_S)
    assert server.scheduled == []


async def test_what_waits_for_anybody_is_no_orphan() -> None:
    server = Server(run_of("other/1", StateType.SCHEDULED))
    await look(server, lease_s=ALL_GONE_S)
    assert server.scheduled == []


async def test_a_run_in_cancelling_is_this_worker_s_to_end() -> None:
    run = run_of("me/1", StateType.CANCELLING)
    server = Server(run)
    [taken] = await look(server)
    assert (taken.id, taken.infrastructure_pid) == (run.id, ME)
    assert (server.owners, server.scheduled) == ({run.id: ME}, [])


async def test_a_run_that_changed_meanwhile_or_is_gone_is_left() -> None:
    changed, gone, lost = run_of("me/1"), run_of("me/1"), run_of("me/1")
    server = Server(changed, gone, lost)
    server.now[changed.id] = changed.model_copy(update={"state_id": uuid4()})
    del server.now[gone.id]
    await look(server)
    assert server.scheduled == [lost.id]


async def test_while_another_worker_takes_runs_over_this_one_does_not() -> None:
    server = Server(run_of("me/1"))
    server.is_locked = True
    assert await look(server) == []
    assert server.scheduled == []


async def test_more_runs_than_a_page_has_are_all_found() -> None:
    server = Server(*(run_of("me/1") for _ in range(201)))
    await look(server)
    assert len(server.scheduled) == 201
