"""Tuning on two real nodes: by a pod on each, of which one is killed, and on one that is drained.

Two Workspaces, each run once; each test looks at one side of what was seen of it.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contract.podlog import parse_event
from tasks.platform.wire import name_of
from tests.builders import tuning_manifest
from tests.cluster.installed import EQUAL, TEAMS, Team, equal_nodes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

LOGIN, SETTINGS = "registry", "settings"
STEPS, SAVED_EVERY = 60, 5
# No row is held out: what is learned is not what these tests are about.
TRAINING = {
    "TrainingArguments": {
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": SAVED_EVERY,
    },
    "DatasetConfig": {"train_test_split": 1.0},
}


@pytest.fixture(scope="module")
def team(installed: Team) -> Iterator[Team]:
    """A namespace with a login and settings, on nodes of which any will do."""
    team = replace(installed, namespace=TEAMS[1])
    with equal_nodes(team):
        team.have_login(LOGIN)
        text = yaml.safe_dump({"training_config": TRAINING})
        config: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap"}
        team.apply(
            config | {"metadata": {"name": SETTINGS}, "data": {"training_config.yaml": text}}
        )
        yield team
        team.in_team("delete", "workspaces", "--all", "--wait=false")


def image_of(team: Team, name: str) -> str:
    return f"{team.registry}/adapters/{name}:1"


def apply(team: Team, name: str, *, nodes: int = 1) -> None:
    """Have a Workspace that tunes and is not served."""
    manifest = tuning_manifest(
        name,
        config=SETTINGS,
        input={"urls": [team.dataset]},
        output={"image": image_of(team, name), "imagePushSecret": LOGIN},
    )
    manifest["metadata"]["annotations"] = {"kaito.sh/serve": "false"}
    manifest["resource"] |= {"count": nodes, "labelSelector": {"matchLabels": EQUAL}}
    team.apply(manifest)


def has_a_checkpoint(status: dict[str, Any]) -> bool:
    """Whether more steps are done than lie between two checkpoints."""
    step: int = (status.get("progress") or {}).get("step", 0)
    return step > SAVED_EVERY


def has_succeeded(status: dict[str, Any]) -> bool:
    return bool(status.get("state") == "Succeeded")


@dataclass(frozen=True)
class Tuned:
    """What became of a tuning that was disturbed.

    log: of the trainer that was disturbed, or of the first of several, as long as that was there.
    nodes_before, nodes_after: of its pods. told: of the step `tune`. digest: that skopeo reads.
    """

    log: str
    nodes_before: set[str]
    nodes_after: set[str]
    told: str
    digest: str
    status: dict[str, Any]

    @property
    def went_on_from(self) -> int:
        """The step of the checkpoint that the training has ended with going on from."""
        found = re.search(rf"went on from step (\d+) of {STEPS}", self.told)
        assert found, self.told
        return int(found[1])

    @property
    def last_step_before(self) -> int:
        """The last step that the log tells of."""
        events = filter(None, map(parse_event, self.log.splitlines()))
        return max(int(event.get("step") or 0) for event in events)


def tuned(team: Team, name: str, disturb: Callable[[], str], *, folder: Path) -> Tuned:
    """What became of it; disturb: what it does to a training, whose log it has."""
    team.until(name, has_a_checkpoint)
    before = nodes_of(team, name)
    log = disturb()
    status = team.until(name, has_succeeded)
    return Tuned(
        log,
        before,
        nodes_of(team, name),
        told=next(step["detail"] for step in status["steps"] if step["name"] == "tune"),
        digest=team.digest(image_of(team, name), folder=folder),
        status=status,
    )


def pods_of(team: Team, name: str) -> list[dict[str, Any]]:
    """Those that train, or have; in the order of their numbers."""
    pods = [pod for pod in team.pods(name) if pod["status"]["phase"] != "Failed"]
    return sorted(pods, key=name_of)


def nodes_of(team: Team, name: str) -> set[str]:
    return {pod["spec"].get("nodeName", "") for pod in pods_of(team, name)}


@pytest.fixture(scope="module")
def together(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Two nodes tune one adapter, and one of their pods is killed."""
    name = "together"
    apply(team, name, nodes=2)

    def kill_the_second() -> str:
        first, second = map(name_of, pods_of(team, name))
        log = team.in_team("logs", first, "--container=tune")
        at_once = ("--grace-period=0", "--force", "--wait=false")
        team.in_team("delete", "pod", second, *at_once)
        return log

    return tuned(team, name, kill_the_second, folder=tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def drained(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """The node on which an adapter is tuned is drained, and takes pods again once that is over."""
    name = "drained"
    apply(team, name)

    def drain_its_node() -> str:
        [pod] = pods_of(team, name)
        follow = ("logs", name_of(pod), "--container=tune", "--follow")
        alone = (f"--pod-selector=kaito.sh/workspace={name}", "--delete-emptydir-data")
        with ThreadPoolExecutor(1) as beside:
            log = beside.submit(team.in_team, *follow)
            team.kubectl("drain", pod["spec"]["nodeName"], *alone, "--timeout=300s")
            return log.result()

    try:
        return tuned(team, name, drain_its_node, folder=tmp_path_factory.mktemp(name))
    finally:
        for node in team.cluster.nodes:
            team.kubectl("uncordon", node.plan.name)


def test_a_pod_on_each_node_has_its_rows_of_every_step(together: Tuned) -> None:
    assert together.nodes_before == {"cpu", "gpu"}
    assert "run planned processes=2" in together.log


def test_a_pod_that_is_killed_costs_the_steps_since_a_checkpoint(together: Tuned) -> None:
    assert SAVED_EVERY <= together.went_on_from < STEPS


def test_what_they_have_learned_together_is_pushed(together: Tuned) -> None:
    assert together.digest == together.status["image"]["digest"]


def test_a_tuning_whose_node_is_drained_ends_on_the_other(drained: Tuned) -> None:
    assert drained.nodes_before | drained.nodes_after == {"cpu", "gpu"}
    assert len(drained.nodes_before) == len(drained.nodes_after) == 1
    assert drained.digest == drained.status["image"]["digest"]


def test_a_drain_costs_no_more_steps_than_lie_between_two_checkpoints(drained: Tuned) -> None:
    assert drained.last_step_before - drained.went_on_from <= SAVED_EVERY


def test_its_checkpoint_was_kept_beside_the_image(drained: Tuned, team: Team) -> None:
    came_from = (
        f"checkpoint-{drained.went_on_from} came from {image_of(team, 'drained')}.checkpoint"
    )
    assert came_from in drained.told
