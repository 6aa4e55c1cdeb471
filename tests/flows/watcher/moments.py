"""Each step of a run as a moment at which its Workspace can be held."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from tests.flows.watcher.gate import Gate
from tests.flows.watcher.installation import Installation, workspace_manifest


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
