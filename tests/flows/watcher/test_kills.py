"""The worker dies at any step of a run, and another goes on: nothing is made or pushed twice.

One kill for all: each Workspace is held at a step of its own, and when all are where they should
be, the worker that runs them is killed and another one started.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from tests.flows.watcher.conftest import new_namespace
from tests.flows.watcher.gate import Gate, gate_before
from tests.flows.watcher.installation import Installation, wait_until, workspace_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Scene:
    """What a Workspace can be held with."""

    installed: Installation
    gate: Gate
    namespace: str
    node_labels: dict[str, str] = field(default_factory=lambda: {"apps": "tuning"})

    def apply(self) -> None:
        manifest = workspace_manifest(self.namespace)
        manifest["resource"]["labelSelector"] = {"matchLabels": self.node_labels}
        self.installed.apply(manifest)

    def path(self, plural: str, name: str) -> str:
        return f"/namespaces/{self.namespace}/{plural}/{name}"

    def ask_for_label(self) -> None:
        """Wait for a node that nobody has."""
        self.node_labels = {f"only-{self.namespace}": "yes"}

    def label_node(self) -> None:
        """Let there be that node."""
        labels = (f"{key}={value}" for key, value in self.node_labels.items())
        self.installed.kubectl("label", "node", self.installed.node.name, "--overwrite", *labels)


@dataclass(frozen=True)
class Held:
    """How a Workspace is held at a step; `is_there` tells when it has come so far."""

    begin: Callable[[Scene], None]
    is_there: Callable[[Scene], bool]
    end: Callable[[Scene], None]


def in_container(name: str) -> Held:
    """The container has started and does not end."""
    return Held(
        begin=lambda scene: scene.installed.node.held.add((scene.namespace, name)),
        is_there=lambda scene: scene.installed.node.started[scene.namespace, name] > 0,
        end=lambda scene: scene.installed.node.held.discard((scene.namespace, name)),
    )


def before_request(method: str, plural: str, name: str, *, part: str = "") -> Held:
    """The worker asks something of the API server, which never hears it."""
    return _at_gate("held", method, plural, name, part)


def before_answer(method: str, plural: str, name: str) -> Held:
    """The API server has done what the worker asked, which never hears of it."""
    return _at_gate("unheard", method, plural, name, "")


def _at_gate(rules: str, method: str, plural: str, name: str, part: str) -> Held:
    def chosen(scene: Scene, request: str, body: str) -> bool:
        asked = request.startswith(f"{method} ") and request.endswith(scene.path(plural, name))
        return asked and part in body

    return Held(
        begin=lambda scene: getattr(scene.gate, rules).update(
            {scene.namespace: partial(chosen, scene)}
        ),
        is_there=lambda scene: scene.namespace in scene.gate.waiting,
        end=lambda scene: getattr(scene.gate, rules).pop(scene.namespace),
    )


def without_node() -> Held:
    """There is no node for it, until one gets its label."""

    def tells_of_it(scene: Scene) -> bool:
        return bool(scene.installed.status(scene.namespace).get("progress", {}).get("phase"))

    return Held(
        begin=lambda scene: scene.ask_for_label(),
        is_there=tells_of_it,
        end=lambda scene: scene.label_node(),
    )


def both(first: Held, second: Held) -> Held:
    """It is at the first, and gets no further than the second."""

    def begin(scene: Scene) -> None:
        first.begin(scene)
        second.begin(scene)

    def end(scene: Scene) -> None:
        first.end(scene)
        second.end(scene)

    return Held(begin=begin, is_there=first.is_there, end=end)


verdict_told = before_request("PATCH", "workspaces", "tuned/status", part='"Accepted"')
STEPS = {
    "plan": before_request("GET", "secrets", "push"),
    "check": both(verdict_told, without_node()),
    "provision": without_node(),
    "weights": in_container("fetch-weights"),
    "download": in_container("fetch-dataset"),
    "tune": in_container("tune"),
    "push": in_container("push-image"),
    "pull": in_container("pull-tuned"),
    "serve": in_container("serve"),
    "job made": before_answer("PATCH", "jobs", "tuned-tune-1"),
    "server made": before_answer("PATCH", "statefulsets", "tuned"),
    "nothing told": replace(verdict_told, is_there=in_container("serve").is_there),
}


@pytest.fixture(scope="module")
def killed(
    installed: Installation,
) -> Iterator[dict[str, Scene]]:
    """Each step's Workspace, after the worker that was held there was killed and started again."""
    with gate_before(installed.control_plane) as gate:
        installed.kill("worker")
        through_gate = str(installed.kubeconfig("worker", url=gate.url))
        installed.start_worker(KUBECONFIG=through_gate)
        scenes = {step: Scene(installed, gate, new_namespace(installed)) for step in STEPS}
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
