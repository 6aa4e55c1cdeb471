"""`kaitoflow logs --step` takes each word that a person is shown, and each container's name."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from flows.places.local import LocalObjects
from flows.places.log_choice import LogChoice
from flows.places.pod_logs import pod_log_lines
from tasks.contract.artifacts import Node, PublishedImage
from tasks.contract.errors import LogNotFound, StepUnknown
from tasks.contract.steps import CANDIDATE, INFERENCE, TUNING, StepName, step_of
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.evaluation.candidate_pod import candidate_pod
from tasks.platform.base import Address, Pod
from tasks.platform.current import current_platform, local_platform
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import GENERATION_LABEL, POD_LABEL
from tasks.pods import inference_pod, tuning_pod
from tasks.settings import settings
from tests.builders import tuning_manifest, tuning_workspace

NODE = Node(name="gpu-1", cores=4, memory_gib=16, gpus=0)
ADDRESS = Address(host="127.0.0.1", port=5000, url="http://127.0.0.1:5000")
IN_THE_FLOW = (StepName.PLAN, StepName.CHECK, StepName.PROVISION)
IN_PODS = [step for step in StepName if step not in IN_THE_FLOW]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    caches = (settings, current_platform, local_platform)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


async def pods(workspace: Workspace) -> list[Pod]:
    image = PublishedImage(reference="registry.example.com/a:1", digest="sha256:0")
    return [
        await tuning_pod(workspace, NODE, push=False),
        await candidate_pod(workspace, NODE, number=2, serving=image, push=False),
        await inference_pod(workspace, NODE, image, ADDRESS),
    ]


def from_an_image() -> Workspace:
    return tuning_workspace(input={"image": "registry.example.com/rows:1"})


def of_containers(made: list[Pod]) -> list[tuple[str, str]]:
    return [(pod.name, each.name) for pod in made for each in pod.containers]


async def test_every_container_belongs_to_one_step_and_each_step_has_one() -> None:
    workspace = from_an_image()
    containers = of_containers(await pods(workspace))
    steps = [step_of(name, workspace, pod=pod) for pod, name in containers]
    assert list(dict.fromkeys(steps)) == IN_PODS
    for pod, name in containers:
        words = [step for step in IN_PODS if LogChoice(workspace, step).takes(name, pod=pod)]
        assert words == [step_of(name, workspace, pod=pod)]


def test_weights_are_fetched_once_where_nothing_is_tuned() -> None:
    assert step_of("fetch-weights", served(), pod=INFERENCE) is StepName.WEIGHTS


def served(**inference: Any) -> Workspace:
    manifest = tuning_manifest()
    del manifest["tuning"]
    manifest["inference"] = inference or {"preset": {"name": "smollm2-135m-instruct"}}
    return parse_workspace(manifest, source="test")


def test_the_containers_of_a_template_are_chosen_by_their_own_names() -> None:
    workspace = served(template={"spec": {"containers": [{"name": "mine", "image": "a"}]}})
    mine, deploy = LogChoice(workspace, "mine"), LogChoice(workspace, StepName.DEPLOY)
    mine.expect_possible(())
    assert mine.takes_server
    assert mine.takes("mine", pod=INFERENCE)
    assert deploy.takes("mine", pod=INFERENCE)


def here(word: str, containers: list[tuple[str, str]]) -> list[str]:
    objects = LocalObjects()
    workspace = local_platform().store.apply(Manifests(workspace=from_an_image()))
    folder = local_platform().store.generation_dir(workspace) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for _, name in containers:
        (folder / f"{name}.log").write_text("said\n")
    lines = objects.log_lines(workspace, step=word, follow=False, previous=False)
    return [container for container, _ in lines]


async def in_cluster(word: str, containers: list[tuple[str, str]]) -> list[str]:
    async def over() -> bool:
        return False

    choice = LogChoice(from_an_image(), word)
    api = cast("KubeApi", Finished(containers))
    lines = pod_log_lines(api, choice, follow=False, previous=False, says_more=over)
    return [container async for container, _ in lines]


class Finished:
    """An API server that has three pods, of which every container has ended with a word."""

    def __init__(self, containers: list[tuple[str, str]]) -> None:
        self._containers = containers

    async def find(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [self._pod(kind) for kind in (TUNING, CANDIDATE, INFERENCE)]

    def _pod(self, kind: str) -> dict[str, Any]:
        names = [name for pod, name in self._containers if pod == kind]
        labels = {POD_LABEL: kind, GENERATION_LABEL: "1"}
        return {
            "metadata": {"name": kind, "labels": labels, "creationTimestamp": ""},
            "spec": {"containers": [{"name": name} for name in names]},
            "status": {
                "containerStatuses": [
                    {"name": name, "state": {"terminated": {}}, "containerID": name}
                    for name in names
                ]
            },
        }

    async def log(self, *_: Any, **__: Any) -> AsyncGenerator[tuple[str, str]]:
        yield "2026-01-01T00:00:00Z", "said"


@pytest.mark.parametrize("step", IN_PODS)
async def test_each_step_that_is_shown_has_its_log_on_both_places(step: StepName) -> None:
    workspace = from_an_image()
    containers = of_containers(await pods(workspace))
    expected = [name for pod, name in containers if step_of(name, workspace, pod=pod) is step]
    assert here(step.value, containers) == list(dict.fromkeys(expected))
    assert await in_cluster(step.value, containers) == expected


async def test_each_container_has_its_log_on_both_places() -> None:
    containers = of_containers(await pods(from_an_image()))
    for _, name in containers:
        assert set(here(name, containers)) == {name}
        assert set(await in_cluster(name, containers)) == {name}


@pytest.mark.parametrize(
    ("word", "error", "told"),
    [
        *((step.value, LogNotFound, "kaitoflow describe tuned") for step in IN_THE_FLOW),
        ("deploy", LogNotFound, "there are logs of: fetch-weights;"),
        ("serve", LogNotFound, "there are logs of: fetch-weights;"),
        ("nope", StepUnknown, "choose one of weights, download, tune, push, evaluate, "),
    ],
)
async def test_a_log_that_cannot_be_had_is_refused_for_what_is_wrong(
    word: str, error: type[Exception], told: str
) -> None:
    containers = [(TUNING, "fetch-weights")]
    with pytest.raises(error, match=told):
        here(word, containers)
    with pytest.raises(error, match=told):
        await in_cluster(word, containers)


async def test_the_second_weights_are_not_there_before_the_server_has_a_pod() -> None:
    with pytest.raises(LogNotFound, match="there are logs of: fetch-weights;"):
        await in_cluster("weights-again", [(TUNING, "fetch-weights")])
