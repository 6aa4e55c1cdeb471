"""The worker executes the runs of its pool in one process, at once, and keeps them apart."""

import functools
import uuid
from collections.abc import Callable

import httpx2
import psutil
import pytest

from tests.flows.prometheus import values
from tests.flows.worker.conftest import Pool, wait_until

pytestmark = pytest.mark.timeout(240)


def test_a_poke_starts_a_run_long_before_the_next_poll(shared: Pool) -> None:
    run = shared.start_guarded()[0]
    shared.gate.touch()
    assert shared.wait_for(run) == {"COMPLETED": 1}
    assert shared.notes("began") == shared.notes("ended") == [run]


@pytest.mark.slow
def test_thirty_runs_wait_at_once_in_one_process_without_a_thread_each(shared: Pool) -> None:
    runs = shared.start_guarded(30)
    shared.wait_for_notes("began", 30)
    assert httpx2.get(f"{shared.worker_url}/healthz").json()["runs"] == 30
    threads = psutil.Process(shared.workers[0].process.pid).num_threads()
    shared.gate.touch()
    assert shared.wait_for(*runs) == {"COMPLETED": 30}
    assert sorted(shared.notes("began")) == sorted(shared.notes("ended")) == sorted(runs)
    assert threads < 30, threads
    pids = {line.split()[2] for line in shared.path.read_text().splitlines()}
    assert pids == {str(shared.workers[0].process.pid)}


def test_no_more_runs_are_held_than_the_limit(pool: Pool) -> None:
    runs = pool.start_guarded(5)
    worker = pool.start_worker("--limit", "2")
    pool.wait_for_notes("began", 2)
    assert httpx2.get(f"{worker.url}/healthz").json()["runs"] == 2
    pool.gate.touch()
    assert pool.wait_for(*runs) == {"COMPLETED": 5}


def test_each_run_has_its_own_log(shared: Pool) -> None:
    """From the flow, a task, a library, a child of the loop, a thread and print."""
    names, said = [f"runner{n}" for n in range(8)], 1 + 1 + 2 * 3 * 4
    deployment = shared.deploy("talkative")
    runs = {n: shared.start_run("talkative", deployment, who=n, lines=3) for n in names}
    assert shared.wait_for(*runs.values()) == {"COMPLETED": 8}
    for name, run in runs.items():
        look = functools.partial(shared.log_of, run, about=name, expected=said)
        wait_until(look, f"{said} lines of {name}")
        others = [line for line in shared.log_of(run) for n in names if n != name and n in line]
        assert others == []


def test_a_run_knows_how_often_it_has_begun(shared: Pool) -> None:
    run = shared.start_run("counted", path=str(shared.path))
    assert shared.wait_for(run) == {"COMPLETED": 1}
    assert shared.notes("begun-1-times") == [run]
    assert shared.call("GET", f"/flow_runs/{run}")["run_count"] == 1


def test_a_flow_may_call_another_one(shared: Pool) -> None:
    run = shared.start_run("parent", path=str(shared.path))
    assert shared.wait_for(run) == {"COMPLETED": 1}
    assert len(shared.notes("child")) == 1
    assert shared.notes("ended") == [run]


def test_a_flow_that_raises_fails_with_its_words(shared: Pool) -> None:
    run = shared.start_run("failing")
    assert shared.wait_for(run) == {"FAILED": 1}
    assert "as it was meant" in shared.state(run)["message"]


def test_runs_are_told_to_prometheus_while_they_are_held_and_when_they_have_ended(
    shared: Pool,
) -> None:
    def told() -> Callable[..., float]:
        return values(httpx2.get(f"{shared.worker_url}/metrics").text)

    before = told()
    runs = [*shared.start_guarded(), shared.start_run("failing")]
    shared.wait_for_notes("began", 1)
    assert told()("kaitoflow_worker_runs", phase="running") >= 1
    shared.gate.touch()
    shared.wait_for(*runs)
    ended = ({"flow": "guarded", "state": "COMPLETED"}, {"flow": "failing", "state": "FAILED"})

    def added() -> bool:
        after, name = told(), "kaitoflow_runs_ended_total"
        return all(after(name, **each) == before(name, **each) + 1 for each in ended)

    # Prefect's server knows of an end a moment before the worker has let go of the run.
    assert wait_until(added, "the counters")


@pytest.mark.parametrize("flow", ["flaky", "flaky_later"])
def test_a_flow_with_retries_is_tried_again(shared: Pool, flow: str) -> None:
    run = shared.start_guarded(flow=flow)[0]
    shared.gate.touch()
    assert shared.wait_for(run) == {"COMPLETED": 1}
    assert shared.notes("began") == [run, run]


def test_a_suspended_run_leaves_the_worker_and_comes_back_when_resumed(shared: Pool) -> None:
    run = shared.start_guarded(flow="stepping")[0]
    shared.wait_for_notes("began", 1)
    details = {"pause_timeout": "2099-01-01T00:00:00Z", "pause_reschedule": True}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    shared.call("POST", f"/flow_runs/{run}/set_state", {"state": state})
    health = f"{shared.worker_url}/healthz"
    wait_until(lambda: httpx2.get(health).json()["runs"] == 0, "the run to leave")
    shared.gate.touch()
    shared.call("POST", f"/flow_runs/{run}/resume", {})
    shared.poke()
    assert shared.wait_for(run) == {"COMPLETED": 1}
    assert shared.notes("began") == [run, run]


@pytest.mark.parametrize(
    ("entrypoint", "told"),
    [
        ("tests.flows.worker.toys.blocking", "not `async def`"),
        ("tests/flows/worker/toys.py:failing", "no dotted module path"),
        ("tests.flows.worker.toys.absent", "deploy a flow this worker can import"),
        ("no.such.module", "deploy a flow this worker can import"),
    ],
)
def test_a_flow_that_cannot_be_awaited_here_crashes_with_the_fix(
    shared: Pool, entrypoint: str, told: str
) -> None:
    run = shared.start_run("", shared.deploy(f"unusable-{uuid.uuid4()}", entrypoint))
    assert shared.wait_for(run) == {"CRASHED": 1}
    assert told in shared.state(run)["message"]


def test_parameters_that_are_missing_fail_the_run_alone(shared: Pool) -> None:
    run = shared.start_run("guarded", path="only this")
    assert set(shared.wait_for(run)) <= {"FAILED", "CRASHED"}
    assert "gate" in shared.state(run)["message"]


def test_the_run_names_the_worker_that_holds_it(shared: Pool) -> None:
    run = shared.start_guarded()[0]
    shared.wait_for_notes("began", 1)
    name = shared.call("POST", f"/work_pools/{shared.name}/workers/filter", {})[0]["name"]
    assert shared.call("GET", f"/flow_runs/{run}")["infrastructure_pid"].startswith(f"{name}/")
    shared.gate.touch()
    shared.wait_for(run)
