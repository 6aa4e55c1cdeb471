"""Serving on real nodes, while clients ask: a pod goes, an adapter gets other weights, a set grows.

A Workspace that only serves and an InferenceSet; each test looks at one side of what was seen.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest

from tasks.contract.inference_set import CREATED_BY
from tasks.contract.programs.image import PushConfig
from tasks.image.pod.push import push_image
from tasks.platform.wire import is_condition, is_pod_ready, name_of
from tests.cluster.installed import (
    EQUAL,
    QUESTION,
    RUN_LIMIT_S,
    TEAMS,
    Answer,
    Team,
    chatting,
    equal_nodes,
    eventually,
    failed,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

NAME, SET, ADAPTER, LOGIN = "talker", "coder", "polite", "registry"
PRESET = "smollm2-135m-instruct"
# Of the objects that a Workspace is made into, and itself.
KINDS = "workspaces,statefulsets,services,configmaps,controllerrevisions,pods"


@pytest.fixture(scope="module")
def team(installed: Team) -> Iterator[Team]:
    """A namespace on nodes of which any will do."""
    team = replace(installed, namespace=TEAMS[2])
    with equal_nodes(team):
        team.have_login(LOGIN)
        yield team
        team.in_team("delete", "inferencesets,workspaces", "--all", "--wait=false")


def image_of(team: Team, version: int, *, registry: str = "") -> str:
    return f"{registry or team.registry}/adapters/{ADAPTER}:{version}"


@pytest.fixture(scope="module")
def serving(team: Team, smollm2_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """A Workspace that serves the small model and an adapter, of which there is another version."""
    # Late: it brings torch along, which nobody wants who only lists these tests.
    from tests.bench.serving.adapters import write_adapter

    folder = tmp_path_factory.mktemp("adapters")
    for version in (1, 2):
        push_image(
            PushConfig(
                adapter_dir=write_adapter(folder / str(version), smollm2_weights, seed=version),
                reference=image_of(team, version, registry=team.here),
                layout_dir=folder / "images",
                push=True,
                docker_config=team.login_here(folder),
            )
        )
    key = ("secret", "generic", f"{NAME}-admin-key", "--from-literal=key=open-sesame")
    team.in_team("create", *key)
    source = {"name": ADAPTER, "image": image_of(team, 1), "imagePullSecrets": [LOGIN]}
    team.apply(
        {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {"name": NAME},
            "resource": {"labelSelector": {"matchLabels": EQUAL}},
            "inference": {
                "preset": {"name": PRESET},
                "adapters": [{"source": source, "strength": "1.0"}],
            },
        }
    )
    team.until(NAME, lambda status: bool(status.get("state") == "Ready"))
    return team


def wait_for_answers(answers: list[Answer], *, more: int = 8) -> None:
    """Return once clients were answered so many times more."""
    enough = len(answers) + more
    eventually(lambda: len(answers) >= enough, limit_s=300, otherwise=lambda: f"{answers[-more:]}")


@pytest.mark.parametrize("model", [PRESET, ADAPTER])
def test_a_model_and_its_adapter_answer_at_the_service_s_address(serving: Team, model: str) -> None:
    url = f"{serving.url(NAME)}/v1/chat/completions"
    asked = QUESTION | {"model": model, "max_tokens": 16, "ignore_eos": True}
    answer = httpx2.post(url, json=asked, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    assert answer.json()["usage"]["completion_tokens"] == 16


@pytest.fixture(scope="module")
def told(serving: Team) -> list[str]:
    """The events of a long answer under which its pod was deleted; another pod is ready since."""
    before = serving.found("pod", f"{NAME}-0")["metadata"]["uid"]
    asked = QUESTION | {"max_tokens": 600, "ignore_eos": True, "stream": True}
    url, events = f"{serving.url(NAME)}/v1/chat/completions", list[str]()
    with httpx2.stream("POST", url, json=asked, timeout=300, trust_env=False) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            events.append(line.removeprefix("data: "))
            if len(events) == 5:
                serving.in_team("delete", "pod", f"{NAME}-0", "--wait=false")

    def has_another_pod() -> bool:
        pods = serving.pods(NAME)
        return [pod["metadata"]["uid"] != before and is_pod_ready(pod) for pod in pods] == [True]

    eventually(has_another_pod, limit_s=600, otherwise=lambda: serving.report(NAME))
    return events


def test_a_stream_tells_how_it_ends_when_its_pod_is_deleted(told: list[str]) -> None:
    *events, done = told
    last = json.loads(events[-1])
    assert done == "[DONE]"
    assert "error" in last or last["choices"][0]["finish_reason"] == "length"


def test_a_server_whose_pod_was_deleted_is_ready_and_answers_again(
    serving: Team, told: list[str]
) -> None:
    def is_ready() -> bool:
        return is_condition(serving.found("workspace", NAME), "InferenceReady")

    eventually(is_ready, limit_s=120, otherwise=lambda: serving.report(NAME))
    with chatting(serving, NAME) as answers:
        wait_for_answers(answers, more=1)
    assert failed(answers) == []


def test_clients_notice_nothing_when_an_adapter_gets_other_weights(
    serving: Team, tmp_path: Path
) -> None:
    with chatting(serving, NAME, clients=4, model=ADAPTER) as answers:
        wait_for_answers(answers)
        load_in_place(serving, home=tmp_path)
        wait_for_answers(answers)
    assert failed(answers) == []
    assert len({each.generation for each in answers}) == 2


def load_in_place(team: Team, *, home: Path) -> None:
    """Have the adapter's name go on with the weights of its second version."""
    environment = {
        "KUBECONFIG": str(team.cluster.control_plane.kubeconfig),
        "KAITOFLOW_PLATFORM": "kubernetes",
        "KAITOFLOW_HOME": str(home),
    }
    load = ("adapters", NAME, "load", ADAPTER, image_of(team, 2), "--in-place")
    ended = subprocess.run(
        [sys.executable, "-m", "flows", *load, "--namespace", team.namespace],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@dataclass(frozen=True)
class Scaled:
    """What was seen while an InferenceSet had one member, two, and one again.

    at_two, at_one: its Workspaces. behind_at_two: addresses to which its Service led.
    left: of the member that went.
    """

    answers: list[Answer]
    at_two: list[str]
    behind_at_two: set[str]
    at_one: list[str]
    left: list[str]


@pytest.fixture(scope="module")
def scaled(team: Team) -> Scaled:
    """An InferenceSet is scaled up and down while clients ask its Service."""
    team.apply(
        {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "InferenceSet",
            "metadata": {"name": SET},
            "spec": {
                "labelSelector": {"matchLabels": EQUAL},
                "template": {"inference": {"preset": {"name": PRESET}}},
            },
        }
    )
    until_members_answer(team, 1)
    with chatting(team, SET, clients=2) as answers:
        wait_for_answers(answers)
        team.in_team("scale", "inferenceset", SET, "--replicas=2")
        until_members_answer(team, 2)
        eventually(lambda: len(behind(team)) == 2, limit_s=60, otherwise=lambda: f"{behind(team)}")
        at_two, behind_at_two = members(team), behind(team)
        wait_for_answers(answers)
        team.in_team("scale", "inferenceset", SET, "--replicas=1")
        eventually(lambda: not left_of_second(team), limit_s=600, otherwise=lambda: report(team))
        until_members_answer(team, 1)
        wait_for_answers(answers)
    return Scaled(answers, at_two, behind_at_two, members(team), left_of_second(team))


def until_members_answer(team: Team, count: int) -> None:
    """Return once so many members are there, and all of them answer."""

    def do_answer() -> bool:
        status = team.found("inferenceset", SET).get("status") or {}
        counts = {status.get(field) for field in ("replicas", "readyReplicas", "updatedReplicas")}
        return counts == {count} and len(members(team)) == count

    eventually(do_answer, limit_s=RUN_LIMIT_S, otherwise=lambda: report(team))


def members(team: Team) -> list[str]:
    found = team.found("workspaces", f"--selector={CREATED_BY}={SET}")["items"]
    return sorted(map(name_of, found))


def behind(team: Team) -> set[str]:
    """The addresses to which the set's Service leads now."""
    slices = team.found("endpointslices", f"--selector=kubernetes.io/service-name={SET}")["items"]
    endpoints = [each for one in slices for each in one.get("endpoints") or ()]
    return {each["addresses"][0] for each in endpoints if each["conditions"].get("ready")}


def left_of_second(team: Team) -> list[str]:
    """What there is of the set's second member, as kind/name."""
    there = team.in_team("get", KINDS, "--output=name").split()
    return [each for each in there if each.partition("/")[2].startswith(f"{SET}-1")]


def report(team: Team) -> str:
    """What a person would look at when the set does not become what it is to be."""
    told = team.in_team("get", "inferenceset", SET, "--output=yaml")
    return f"{told}\n{team.in_team('describe', 'pods')[-6000:]}"


def test_no_request_fails_while_a_set_is_scaled_up_and_down(scaled: Scaled) -> None:
    assert failed(scaled.answers) == []


def test_a_set_has_as_many_members_behind_its_service_as_it_is_scaled_to(scaled: Scaled) -> None:
    assert scaled.at_two == [f"{SET}-0", f"{SET}-1"]
    assert len(scaled.behind_at_two) == 2
    assert scaled.at_one == [f"{SET}-0"]


def test_nothing_is_left_of_a_member_that_went(scaled: Scaled) -> None:
    assert scaled.left == []
