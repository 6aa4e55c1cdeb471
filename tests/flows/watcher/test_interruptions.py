"""Programs die and connections break while Workspaces run: nothing is made or pushed twice."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.flows.watcher.conftest import installation, new_namespace
from tests.flows.watcher.gate import Gate, gate_before
from tests.flows.watcher.installation import Installation, wait_until, workspace_manifest
from tests.flows.watcher.moments import STEPS, Scene

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Gates:
    """One before the API server for each program."""

    watcher: Gate
    worker: Gate


@pytest.fixture(scope="module")
def behind_gates(
    control_plane: ControlPlane,  # builds the programs, or skips
    crowded_prefect: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Installation, Gates]]:
    with (
        installation(tmp_path_factory.mktemp("kaitoflow"), crowded_prefect) as made,
        gate_before(made.control_plane) as watcher,
        gate_before(made.control_plane) as worker,
    ):
        made.urls |= {"watcher": watcher.url, "worker": worker.url}
        made.settings["KAITOFLOW_WATCH_DEAD_S"] = "5"
        made.start_worker()
        made.start("watcher")
        yield made, Gates(watcher, worker)
        made.stop()


@pytest.fixture(scope="module")
def installed(behind_gates: tuple[Installation, Gates]) -> Installation:
    return behind_gates[0]


@pytest.fixture(scope="module")
def gates(behind_gates: tuple[Installation, Gates]) -> Gates:
    return behind_gates[1]


@pytest.fixture(scope="module")
def killed(installed: Installation, gates: Gates) -> Iterator[dict[str, Scene]]:
    """Each step's Workspace, after the worker that was held there was killed and started again.

    One kill for all: each is held at a step of its own until all are where they should be.
    """
    scenes = {step: Scene(installed, gates.worker, new_namespace(installed)) for step in STEPS}
    for step, scene in scenes.items():
        STEPS[step].begin(scene)
        scene.apply()
    for step, scene in scenes.items():
        wait_until(partial(STEPS[step].is_there, scene), f"the run to be at {step}")
    installed.kill("worker")
    installed.start_worker()
    for step, scene in scenes.items():
        STEPS[step].end(scene)
    yield scenes
    for scene in scenes.values():
        installed.kubectl("delete", "namespace", scene.namespace, "--wait=false")


@pytest.mark.parametrize("step", STEPS)
def test_a_run_whose_worker_was_killed_is_done_once(killed: dict[str, Scene], step: str) -> None:
    scene = killed[step]
    scene.installed.expect_one_run(scene.namespace)


@pytest.fixture
def tuning(installed: Installation, workspace_namespace: str) -> str:
    """The namespace of a Workspace that tunes until the node's `held` is cleared."""
    installed.node.held.add((workspace_namespace, "tune"))
    installed.apply(workspace_manifest(workspace_namespace))
    installed.wait_until_started(workspace_namespace, "tune")
    return workspace_namespace


@pytest.fixture
def later(installed: Installation) -> Iterator[str]:
    """A namespace for a Workspace that is applied afterwards."""
    name = new_namespace(installed)
    yield name
    installed.kubectl("delete", "namespace", name, "--wait=false")


def expect_both_run(
    installed: Installation, tuning: str, later: str, *, most_runs: int = 1
) -> None:
    """What tunes goes on to its end, and a new Workspace is run as well."""
    installed.apply(workspace_manifest(later))
    installed.node.held.clear()
    installed.expect_one_run(later, most_runs=most_runs)
    installed.expect_one_run(tuning, most_runs=most_runs)


def test_of_two_watchers_the_other_leads_when_the_leader_dies(
    installed: Installation, tuning: str, later: str
) -> None:
    installed.start("watcher", name="second")
    wait_until(lambda: installed.health("second")[0], "the second watcher")
    assert not installed.health("second")[1]["leading"]
    installed.kill("watcher")
    expect_both_run(installed, tuning, later)
    assert installed.health("second")[1]["leading"]
    installed.rename("second", "watcher")


def test_a_restart_of_the_api_server_ends_no_run(
    installed: Installation, tuning: str, later: str
) -> None:
    installed.control_plane.restart_api_server()
    expect_both_run(installed, tuning, later)


def test_a_watch_whose_version_is_too_old_begins_anew(
    installed: Installation, gates: Gates, tuning: str, later: str
) -> None:
    installed.control_plane.restart_api_server()  # it keeps no change from before its start

    def has_expired(gate: Gate, times: int) -> bool:
        installed.revive()  # the server may have been away for longer than the Lease lasts
        return gate.expired >= times

    for gate in (gates.watcher, gates.worker):
        both_kinds, gate.is_forgetful = gate.expired + 2, True
        gate.end_watches()
        try:
            wait_until(partial(has_expired, gate, both_kinds), "the watches of both kinds")
        finally:
            gate.is_forgetful = False
    expect_both_run(installed, tuning, later)


def test_a_watch_that_is_dead_is_told_and_its_workspaces_are_run(
    installed: Installation, gates: Gates, tuning: str, later: str
) -> None:
    wait_until(lambda: installed.health() == (200, {"leading": True, "watching": True}), "a watch")
    gates.watcher.is_silent = True
    try:
        # What the watch has not told of is taken for gone; the run that looks finds all there.
        expect_both_run(installed, tuning, later, most_runs=2)
        wait_until(lambda: installed.health()[0] == 503, "the watch to be told dead")
    finally:
        gates.watcher.is_silent = False
    wait_until(lambda: installed.health()[0] == 200, "the watch to live again")
