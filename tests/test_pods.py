"""What a Workspace's pods are told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.contract.artifacts import Node, PublishedImage
from tasks.contract.programs.serving import ServerConfig
from tasks.contract.programs.tuning import TuningConfig
from tasks.platform.base import Address
from tasks.pods import inference_pod, tuning_pod
from tasks.settings import settings
from tests.builders import tuning_workspace

NODE = Node(name="gpu-1", cores=4, memory_gib=16, gpus=2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


async def test_trainer_and_server_are_told_of_the_nodes_gpus() -> None:
    workspace = tuning_workspace()
    image = PublishedImage(reference="registry.example.com/a:1", digest="sha256:0")
    address = Address(host="127.0.0.1", port=5000, url="http://127.0.0.1:5000")
    pods = (
        await tuning_pod(workspace, NODE, push=False),
        await inference_pod(workspace, NODE, image, address),
    )
    told = [
        container.config.gpus
        for pod in pods
        for container in pod.containers
        if isinstance(container.config, TuningConfig | ServerConfig)
    ]
    assert told == [2, 2]


async def test_a_server_is_told_of_its_limits_and_of_the_pages_that_may_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAITOFLOW_SERVER_MAX_CONCURRENCY", "3")
    monkeypatch.setenv("KAITOFLOW_SERVER_MAX_QUEUE", "0")
    monkeypatch.setenv("KAITOFLOW_SERVER_MAX_CONTEXT_TOKENS", "512")
    monkeypatch.setenv("KAITOFLOW_SERVER_CORS_ORIGINS", '["https://Chat.example.com"]')
    address = Address(host="127.0.0.1", port=5000, url="http://127.0.0.1:5000")
    image = PublishedImage(reference="registry.example.com/a:1", digest="sha256:0")
    pod = await inference_pod(tuning_workspace(), NODE, image, address)
    told = pod.containers[-1].config
    assert isinstance(told, ServerConfig)
    assert (told.max_concurrency, told.max_queue, told.max_context_tokens) == (3, 0, 512)
    assert told.cors_origins == ("https://chat.example.com",)


async def test_the_hubs_token_is_not_among_the_registries_secrets() -> None:
    options = {"modelAccessSecret": "hub"}
    preset = {"name": "smollm2-135m-instruct", "presetOptions": options}
    pod = await tuning_pod(tuning_workspace(preset=preset), NODE, push=True)
    assert (pod.hub_secret, pod.secrets, pod.gpus) == ("hub", ("push",), 2)


async def test_a_pods_containers_follow_from_what_is_asked_for() -> None:
    names = [
        each.name for each in (await tuning_pod(tuning_workspace(), NODE, push=False)).containers
    ]
    assert names == ["fetch-weights", "fetch-dataset", "tune", "push-image"]
    into_a_volume = tuning_workspace(output={"volumeSource": {"emptyDir": {}}})
    pod = await tuning_pod(into_a_volume, NODE, push=False)
    assert [each.name for each in pod.containers] == names[:3]
    assert [*pod.volumes.values()] == [{"emptyDir": {}}]
    assert pod.secrets == ()
