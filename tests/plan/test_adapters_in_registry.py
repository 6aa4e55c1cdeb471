"""Adapters whose status was lost are found in the registry that they were pushed to."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tasks import steps
from tasks.contract.artifacts import PublishedImage
from tasks.contract.errors import RegistryUnavailable
from tasks.contract.image_annotations import TRAINING, WORKSPACE_UID
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.image.pod.push import push_image
from tasks.plan import task
from tasks.plan.registries import look_for_adapters
from tasks.plan.task import find_adapters_again
from tasks.platform.base import World
from tasks.platform.local import LocalPlatform
from tasks.settings import Settings
from tests.builders import tuning_manifest
from tests.cluster.registry import RunningRegistry, running_registry
from tests.image.builders import push_config, write_adapter

WORLD = World(config_maps={}, has_secret=lambda _name: True, push=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def workspace(image: str, *, uid: str = "uid-1") -> Workspace:
    manifest = tuning_manifest(output={"image": image, "imagePushSecret": "push"})
    manifest["metadata"]["uid"] = uid
    return parse_workspace(manifest, source="test")


def pushed(folder: Path, image: str, *, seed: int, uid: str = "uid-1") -> str:
    adapter = write_adapter(folder / f"adapter-{seed}", seed=seed)
    annotations = {WORKSPACE_UID: uid, TRAINING: f"t{seed}"}
    return push_image(push_config(adapter, image, annotations=annotations)).digest


async def test_those_of_the_workspace_are_found_with_their_numbers(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    image = f"{registry.host}/team/found:1"
    digests = {
        1: pushed(tmp_path, image, seed=1),
        2: pushed(tmp_path, f"{image}-g2", seed=2),
        11: pushed(tmp_path, f"{image}-g11", seed=11),
    }
    pushed(tmp_path, f"{image}-g3", seed=3, uid="another")
    pushed(tmp_path, f"{registry.host}/team/found:2", seed=4)
    pushed(tmp_path, f"{image}-checkpoint", seed=5)
    found = await look_for_adapters(workspace(image), WORLD, Settings())
    assert {each.number: each.image.digest for each in found} == digests
    assert [each.training for each in found] == ["t1", "t2", "t11"]


async def test_a_repository_that_is_not_there_has_none(registry: RunningRegistry) -> None:
    image = f"{registry.host}/team/nothing:1"
    assert await look_for_adapters(workspace(image), WORLD, Settings()) == []


async def test_a_registry_that_does_not_answer_is_told() -> None:
    with pytest.raises(RegistryUnavailable):
        await look_for_adapters(workspace("registry.invalid/a:1"), WORLD, Settings())


class OnACluster(LocalPlatform):
    """This machine's platform, for which a server serves what it is told of."""

    is_cluster = True
    serving_digests: Collection[str] = ()
    looks = 0

    async def look_around(self, workspace: Workspace, *, push: bool, port: int | None) -> World:
        self.looks += 1
        return WORLD  # of a cluster, addresses of this machine would not be asked

    async def served_images(self, workspace: Workspace) -> Collection[str]:
        return self.serving_digests


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnACluster:
    made = OnACluster(Settings(home=tmp_path / "home"))
    for module in (steps, task):
        monkeypatch.setattr(module, "current_platform", lambda: made)
    return made


def kept(platform: OnACluster, image: str) -> Workspace:
    return platform.store.apply(Manifests(workspace=workspace(image, uid="")))


async def test_a_status_that_was_lost_is_told_from_the_registry(
    registry: RunningRegistry, platform: OnACluster, tmp_path: Path
) -> None:
    image = f"{registry.host}/team/lost:1"
    lost = kept(platform, image)
    uid = lost.metadata.uid or ""
    pushed(tmp_path, image, seed=1, uid=uid)
    promoted = pushed(tmp_path, f"{image}-g2", seed=2, uid=uid)
    platform.serving_digests = [promoted]
    await find_adapters_again(lost)
    status = await platform.read_status(lost)
    assert status.tuned
    assert status.tuned.image
    assert (status.tuned.training, status.tuned.image.digest) == ("t2", promoted)
    assert [each.number for each in status.adapters.records] == [1, 2]
    await find_adapters_again(lost)
    assert platform.looks == 1  # who knows its adapters asks nobody


async def test_a_run_that_was_killed_after_its_push_is_nothing_lost(
    registry: RunningRegistry, platform: OnACluster, tmp_path: Path
) -> None:
    image = f"{registry.host}/team/killed:1"
    killed = kept(platform, image)
    digest = pushed(tmp_path, image, seed=1, uid=killed.metadata.uid or "")
    status = WorkspaceStatus(image=PublishedImage(reference=image, digest=digest, pushed=True))
    await platform.write_status(killed, status)
    await find_adapters_again(killed)
    assert platform.looks == 0


async def test_a_registry_that_does_not_answer_stops_no_run(
    platform: OnACluster, caplog: pytest.LogCaptureFixture
) -> None:
    lost = kept(platform, "registry.invalid/a:1")
    with caplog.at_level("INFO"):
        await find_adapters_again(lost)
    assert "whether adapters of before are in the registry was not seen" in caplog.text
    assert (await platform.read_status(lost)).tuned is None


async def test_nobody_is_asked_on_one_machine(platform: OnACluster) -> None:
    platform.is_cluster = False
    await find_adapters_again(kept(platform, "registry.invalid/a:1"))
    assert platform.looks == 0
