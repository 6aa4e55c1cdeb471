"""A worker that stops, dies or hangs: each run goes on elsewhere, and never twice at once."""

import signal

import pytest

from tests.flows.worker.conftest import Pool, wait_until

pytestmark = pytest.mark.timeout(300)


def test_sigterm_hands_runs_on_without_cleaning_up(pool: Pool) -> None:
    first = pool.start_worker()
    runs = pool.start_guarded(5)
    pool.wait_for_notes("began", 5)
    assert first.end(signal.SIGTERM) == 0
    assert {pool.state(run)["name"] for run in runs} == {"AwaitingRetry"}
    assert sorted(pool.notes("stopped")) == sorted(runs)
    assert pool.call("POST", f"/work_pools/{pool.name}/workers/filter", {}) == []
    pool.gate.touch()
    pool.start_worker()
    assert pool.wait_for(*runs) == {"COMPLETED": 5}
    assert pool.notes("cleaned") == []
    assert sorted(pool.notes("ended")) == sorted(runs)


def test_after_kill_the_next_start_resumes_what_it_held(pool: Pool) -> None:
    first = pool.start_worker(name="same", KAITOFLOW_WORKER_LEASE_S="600")
    runs = pool.start_guarded(5)
    pool.wait_for_notes("began", 5)
    pool.cancel(runs[0])
    first.end(signal.SIGKILL)
    pool.gate.touch()
    pool.start_worker(name="same", KAITOFLOW_WORKER_LEASE_S="600")
    assert pool.wait_for(*runs) == {"COMPLETED": 4, "CANCELLED": 1}
    assert pool.notes("cleaned") == [runs[0]]
    assert sorted(pool.notes("ended")) == sorted(runs[1:])


def test_a_replica_takes_over_from_a_dead_one_and_nothing_from_the_living(pool: Pool) -> None:
    dead, living = pool.start_worker("--limit", "4"), pool.start_worker("--limit", "8")
    _ = dead.url, living.url
    runs = pool.start_guarded(8)
    pool.wait_for_notes("began", 8)
    holders = {run: pool.holder(run) for run in runs}
    assert len(set(holders.values())) == 2
    dead.end(signal.SIGKILL)
    orphans = [run for run, pid in holders.items() if pid == dead.process.pid]
    wait_until(lambda: len(pool.notes("began")) == 8 + len(orphans), "the orphans to begin again")
    pool.gate.touch()
    assert pool.wait_for(*runs) == {"COMPLETED": 8}
    assert sorted(pool.notes("began")) == sorted(runs + orphans)
    assert sorted(pool.notes("ended")) == sorted(runs)


def test_of_two_replicas_one_takes_an_orphan_over(pool: Pool) -> None:
    dead = pool.start_worker()
    runs = pool.start_guarded(6)
    pool.wait_for_notes("began", 6)
    _ = [worker.url for worker in (pool.start_worker(), pool.start_worker())]
    dead.end(signal.SIGKILL)
    pool.wait_for_notes("began", 12)
    pool.gate.touch()
    assert pool.wait_for(*runs) == {"COMPLETED": 6}
    assert sorted(pool.notes("began")) == sorted(runs * 2)
    assert sorted(pool.notes("ended")) == sorted(runs)


def test_a_worker_refuses_the_name_of_a_living_one(pool: Pool) -> None:
    first = pool.start_worker(name="mine")
    run = pool.start_guarded()[0]
    pool.wait_for_notes("began", 1)
    second = pool.start_worker(name="mine")
    assert second.process.wait(60) == 1
    assert "WorkerNameTaken" in second.log.read_text()
    pool.gate.touch()
    assert pool.wait_for(run) == {"COMPLETED": 1}
    assert pool.notes("began") == [run]
    assert first.end() == 0


def test_prefects_own_command_starts_the_worker_and_stops_it_in_order(pool: Pool) -> None:
    command = ["-m", "prefect", "worker", "start", "--type", "kaitoflow", "--pool", pool.name]
    worker = pool.spawn(*command)
    run, other = pool.start_guarded(2)
    pool.wait_for_notes("began", 2)
    pool.cancel(run)
    assert pool.wait_for(run) == {"CANCELLED": 1}
    worker.end(signal.SIGTERM)
    assert pool.state(other)["name"] == "AwaitingRetry"


def test_prefects_process_worker_runs_the_same_flow(pool: Pool) -> None:
    pool.call("DELETE", f"/work_pools/{pool.name}")
    pool.call("POST", "/work_pools/", {"name": pool.name, "type": "process"})
    pool.spawn("-m", "prefect", "worker", "start", "--pool", pool.name)
    run = pool.start_guarded()[0]
    pool.gate.touch()
    assert pool.wait_for(run) == {"COMPLETED": 1}
    assert pool.notes("ended") == [run]
