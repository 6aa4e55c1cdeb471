"""Adapters of a Workspace that is served are exchanged in the server that runs, where that can be.

The platform says what serves and keeps what is renewed; the server's side is in `tests/serving`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks import pods, steps
from tasks.contract.artifacts import Endpoint, Node
from tasks.contract.errors import AdapterMismatch, KaitoflowError, RegistryDenied, ServerNotReady
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.inference import live
from tasks.inference.promotion import LiveServer
from tasks.platform.base import Address, Pod
from tasks.platform.local import LocalPlatform
from tasks.platform.manifests.pod_settings import PodSettings
from tasks.platform.manifests.serving import stateful_set
from tasks.pods import inference_pod
from tasks.settings import Settings, settings

NODE = Node(name="gpu-1", cores=4, memory_gib=16, gpus=0)
ADDRESS = Address(host="0.0.0.0", port=5000, url="http://served")


def adapter(name: str, image: str = "", **fields: Any) -> dict[str, Any]:
    source = {"name": name, "image": image or f"r.example.com/{name}:1"}
    return {"source": source | fields.pop("source", {})} | fields


def serving(*adapters: dict[str, Any]) -> Workspace:
    content = {"preset": {"name": "smollm2-135m-instruct"}, "adapters": [*adapters]}
    manifest = {"metadata": {"name": "served"}, "inference": content}
    return parse_workspace(manifest, source="test")


class Serving(LocalPlatform):
    """This machine, on which a Workspace is served as on a cluster."""

    key = "open-sesame"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.made_from: Workspace | None = None
        self.renewed: list[Pod] = []

    async def served(self, workspace: Workspace) -> Workspace | None:
        return self.made_from

    async def has_server(self, workspace: Workspace, pod: Pod) -> bool:
        now = self.made_from
        return now is not None and pod in (
            *self.renewed[-1:],
            *([] if self.renewed else [await inference_pod(now, NODE, None, ADDRESS)]),
        )

    async def admin_key(self, workspace: Workspace) -> str:
        return self.key

    async def renew_server(self, workspace: Workspace, pod: Pod) -> None:
        self.renewed.append(pod)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    settings.cache_clear()
    serves = Serving(settings())
    for module in (live, pods, steps):
        monkeypatch.setattr(module, "current_platform", lambda: serves)
    return serves


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Mapping[str, str], set[str]]]:
    """What the server that runs is asked to load and to unload."""
    told: list[tuple[Mapping[str, str], set[str]]] = []

    async def exchange(
        server: LiveServer, *, load: Mapping[str, str], unload: Collection[str]
    ) -> None:
        assert server == LiveServer("http://served", "open-sesame")
        told.append((load, set(unload)))

    monkeypatch.setattr(live, "exchange", exchange)
    return told


async def edit(platform: Serving, before: Workspace, after: Workspace) -> tuple[Pod | None, str]:
    """What runs as it is asked for after an edit, and what the step says of it."""
    platform.made_from = before
    workspace = platform.store.apply(Manifests(workspace=after))
    status = await platform.read_status(workspace)
    status.endpoint = Endpoint(url="http://served", model="m")
    await platform.write_status(workspace, status)
    pod = await live.running_server(workspace, NODE, None, ADDRESS)
    told = (await platform.read_status(workspace)).steps
    return pod, told[-1].detail if told else ""


async def test_adapters_that_differ_are_loaded_and_those_that_are_gone_unloaded_in_what_runs(
    platform: Serving, asked: list[Any]
) -> None:
    after = serving(adapter("b", "r.example.com/b:2"), adapter("c", "me/c:1"), adapter("d"))
    pod, told = await edit(platform, serving(adapter("a"), adapter("b"), adapter("d")), after)
    images = {"b": "r.example.com/b:2", "c": "docker.io/me/c:1"}
    assert asked == [(images, {"a"})]
    assert told == "while it served"
    assert platform.renewed == [pod]
    assert pod
    assert [each.name for each in pod.container("serve").config.adapters] == ["b", "c", "d"]
    again, _ = await edit(platform, after, after)
    assert (again, len(asked)) == (pod, 1)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (serving(), serving(adapter("a")), "other Secrets, volumes, room or settings"),
        (
            serving(adapter("a")),
            serving(adapter("a"), adapter("b", source={"imagePullSecrets": ["s"]})),
            "other Secrets, volumes, room or settings",
        ),
        (
            serving(adapter("a")),
            serving(adapter("a"), adapter("b", strength="0.5")),
            "the strength of b is not 1",
        ),
    ],
)
async def test_what_the_server_that_runs_cannot_become_is_a_new_pod_and_why_is_told(
    platform: Serving, asked: list[Any], before: Workspace, after: Workspace, why: str
) -> None:
    pod, told = await edit(platform, before, after)
    assert (pod, asked, platform.renewed) == (None, [], [])
    assert told.startswith("a new pod has them, since ")
    assert why in told


@pytest.mark.parametrize("kind", [ServerNotReady, AdapterMismatch])
async def test_without_a_key_or_where_the_server_cannot_take_them_a_new_pod_has_the_adapters(
    platform: Serving, monkeypatch: pytest.MonkeyPatch, kind: type[KaitoflowError]
) -> None:
    before, after = serving(adapter("a")), serving(adapter("b"))

    async def away(*_: Any, **__: Any) -> None:
        raise kind("it was asked", "it is away", "wait")

    monkeypatch.setattr(live, "exchange", away)
    pod, told = await edit(platform, before, after)
    assert (pod, "did not take them (it is away)" in told) == (None, True)
    platform.key = ""
    pod, told = await edit(platform, before, after)
    assert (pod, "no admin key opens the one that ran" in told) == (None, True)


async def test_an_adapter_that_cannot_be_had_leaves_what_serves(
    platform: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def denied(*_: Any, **__: Any) -> None:
        raise RegistryDenied("it was asked", "it says no", "log in")

    monkeypatch.setattr(live, "exchange", denied)
    with pytest.raises(RegistryDenied):
        await edit(platform, serving(adapter("a")), serving(adapter("b")))
    assert platform.renewed == []


async def test_another_change_beside_the_adapters_is_a_new_pod(
    platform: Serving, asked: list[Any]
) -> None:
    other = parse_workspace(
        {
            "metadata": {"name": "served"},
            "inference": {
                "preset": {"name": "phi-4-mini-instruct"},
                "adapters": [adapter("b")],
            },
        },
        source="test",
    )
    assert await edit(platform, serving(adapter("a")), other) == (None, "")
    assert asked == []


async def test_the_template_of_a_server_s_pods_is_the_same_whichever_adapters_it_begins_with(
    platform: Serving,
) -> None:
    made = []
    for workspace in (serving(adapter("a")), serving(adapter("b"), adapter("c"))):
        pod = await inference_pod(workspace, NODE, None, ADDRESS)
        wanted = PodSettings(image="registry.example.com/pod:1", job_timeout_s=3600)
        made.append(stateful_set(workspace, pod, wanted, told="1")["spec"])
    assert made[0] == made[1]
