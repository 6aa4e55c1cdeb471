"""A run that is cancelled or deleted in the UI is stopped in order, and stays stopped."""

import time

import pytest

from tests.flows.worker.conftest import Pool

pytestmark = pytest.mark.timeout(240)


def test_a_cancelled_run_is_stopped_and_cleaned_up_once(shared: Pool) -> None:
    run, other = shared.start_guarded(2)
    shared.wait_for_notes("began", 2)
    shared.cancel(run)
    assert shared.wait_for(run) == {"CANCELLED": 1}
    assert shared.state(run)["name"] == "Cancelled"
    assert shared.notes("stopped") == shared.notes("cleaned") == [run]
    shared.gate.touch()
    shared.poke()
    assert shared.wait_for(other) == {"COMPLETED": 1}
    assert shared.state(run)["name"] == "Cancelled"
    assert shared.notes("ended") == [other]


def test_runs_cancelled_at_any_moment_of_their_start_end_cancelled(shared: Pool) -> None:
    deployment = shared.deploy("guarded")
    runs = []
    for number in range(12):
        parameters = {"path": str(shared.path), "gate": str(shared.gate)}
        runs.append(shared.start_run("guarded", deployment, **parameters))
        time.sleep(0.02 * number)
        shared.cancel(runs[-1])
    assert shared.wait_for(*runs) == {"CANCELLED": 12}
    assert {shared.state(run)["name"] for run in runs} == {"Cancelled"}
    began, cleaned = shared.notes("began"), shared.notes("cleaned")
    assert len(cleaned) == len(set(cleaned))
    assert set(began) <= set(cleaned)


def test_a_flow_that_ends_well_although_cancelled_is_cancelled_all_the_same(shared: Pool) -> None:
    run = shared.start_guarded(flow="stubborn")[0]
    shared.wait_for_notes("began", 1)
    shared.cancel(run)
    assert shared.wait_for(run) == {"CANCELLED": 1}
    assert shared.notes("ignored") == shared.notes("cleaned") == [run]


def test_a_deleted_run_is_stopped_and_cleaned_up(shared: Pool) -> None:
    run = shared.start_guarded()[0]
    shared.wait_for_notes("began", 1)
    shared.call("DELETE", f"/flow_runs/{run}")
    assert shared.wait_for_notes("cleaned", 1) == shared.notes("stopped") == [run]
    shared.gate.touch()
    later = shared.start_guarded()[0]
    assert shared.wait_for(later) == {"COMPLETED": 1}
    assert shared.notes("ended") == [later]


def test_a_state_set_by_hand_ends_the_run_without_clean_up(shared: Pool) -> None:
    run = shared.start_guarded()[0]
    shared.wait_for_notes("began", 1)
    body = {"state": {"type": "FAILED", "name": "Failed"}, "force": True}
    shared.call("POST", f"/flow_runs/{run}/set_state", body)
    assert shared.wait_for_notes("stopped", 1) == [run]
    assert shared.state(run)["type"] == "FAILED"
    assert shared.notes("cleaned") == []
