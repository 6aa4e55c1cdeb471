"""A worker that stops, dies or hangs: each run goes on elsewhere, and never twice at once."""

import signal

import pytest

from tests.flows.worker.conftest import WAIT_S, Pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_sigterm_hands_runs_on_without_cleaning_up(pool: Pool) -> None:
    first = pool.start_worker()
    runs = pool.start_guarded(5)
    tried_again = pool.start_guarded(flow="flaky")
    pool.wait_for_notes("began", 5 + 2)
    just_starting = pool.start_guarded(4)
    assert first.end(signal.SIGTERM) == 0
    assert {pool.state(run)["name"] for run in runs + tried_again} == {"AwaitingRetry"}
    assert {pool.state(run)["type"] for run in just_starting} == {"SCHEDULED"}
    assert set(runs) <= set(pool.notes("stopped"))
    assert pool.call("POST", f"/work_pools/{pool.name}/workers/filter", {}) == []
    pool.gate.touch()
    pool.start_worker()
    runs += tried_again + just_starting
    assert pool.wait_for(*runs) == {"COMPLETED": 10}
    assert pool.notes("cleaned") == []
    assert sorted(pool.notes("ended")) == sorted(runs)


def test_after_kill_the_next_start_resumes_what_it_held(pool: Pool) -> None:
    first = pool.start_worker(name="same", KAITOFLOW_WORKER_LEASE_S="600")
    runs = pool.start_guarded(3) + pool.start_guarded(flow="flaky")
    pool.wait_for_notes("began", 3 + 2)
    runs += pool.start_guarded(flow="flaky_later")
    pool.wait_for(runs[-1], states=("SCHEDULED",))  # until it is tried again
    pool.wait_for_notes("began", 3 + 2 + 1)
    first.end(signal.SIGKILL)
    pool.cancel(runs[0])
    pool.gate.touch()
    pool.start_worker(name="same", KAITOFLOW_WORKER_LEASE_S="600")
    assert pool.wait_for(*runs) == {"COMPLETED": 4, "CANCELLED": 1}
    assert pool.notes("cleaned") == [runs[0]]
    assert sorted(pool.notes("ended")) == sorted(runs[1:])


def test_one_replica_takes_over_from_a_dead_one_and_none_from_the_living(pool: Pool) -> None:
    lease = {"KAITOFLOW_WORKER_LEASE_S": "15"}
    dead = pool.start_worker("--limit", "2", **lease)
    orphans = pool.start_guarded(2)
    pool.wait_for_notes("began", 2)
    living = [pool.start_worker("--limit", "4", **lease) for _ in range(2)]
    assert all(worker.url for worker in living)
    runs = orphans + pool.start_guarded(4)
    pool.wait_for_notes("began", 6)
    dead.end(signal.SIGKILL)
    pool.wait_for_notes("began", 6 + 2)
    pool.gate.touch()
    assert pool.wait_for(*runs) == {"COMPLETED": 6}
    assert sorted(pool.notes("began")) == sorted(runs + orphans)
    assert sorted(pool.notes("ended")) == sorted(runs)


def test_a_worker_refuses_the_name_of_a_living_one(pool: Pool) -> None:
    first = pool.start_worker(name="mine")
    run = pool.start_guarded()[0]
    pool.wait_for_notes("began", 1)
    second = pool.start_worker(name="mine")
    assert second.process.wait(WAIT_S) == 1
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
