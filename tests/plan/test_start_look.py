"""An image that is gone on from is asked what it is: on this disk first, then of its registry."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contract.artifacts import PublishedImage, Tuned
from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.errors import RegistryUnavailable
from tasks.contract.image_annotations import BASE_NAME
from tasks.contract.programs.image import PushResult
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.image.pod.push import push_image
from tasks.plan.look import look
from tasks.platform.base import World
from tasks.settings import Settings
from tests.builders import tuning_manifest
from tests.image.builders import push_config, write_adapter

REFERENCE = "registry.invalid/team/a:1"


@pytest.fixture
def kept(tmp_path: Path) -> PushResult:
    adapter = write_adapter(tmp_path / "adapter")
    return push_image(
        push_config(adapter, REFERENCE, push=False, layout_dir=tmp_path / "home" / "images")
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    home = tmp_path / "home"
    return World(config_maps={}, has_secret=lambda _name: True, home=home)


async def seen(start: str, world: World) -> object:
    settings = Settings(plan_timeout_s=5)
    workspace = going_on(start)
    return (await look(workspace, world, settings, list_nodes=None, list_holders=None)).start


def going_on(start: str) -> Workspace:
    manifest = tuning_manifest(input={"urls": ["file:///no/such"]})
    manifest["metadata"]["annotations"] = {CONTINUE_ANNOTATION: start}
    return parse_workspace(manifest, source="test")


async def test_an_image_that_is_kept_here_is_read_here(kept: PushResult, world: World) -> None:
    told = await seen(REFERENCE, world)
    assert isinstance(told, dict)
    assert told[BASE_NAME] == "tests/llama"
    assert told == kept.annotations


async def test_what_serves_is_read_by_its_digest(kept: PushResult, world: World) -> None:
    image = PublishedImage(reference=REFERENCE, digest=kept.digest)
    serving = replace(world, tuned=Tuned(training="0", generation=1, image=image))
    assert await seen("serving", serving) == kept.annotations
    assert await seen("serving", world) is None


async def test_an_image_that_is_not_here_is_asked_of_its_registry(world: World) -> None:
    assert isinstance(await seen(REFERENCE, world), RegistryUnavailable)


async def test_a_folder_is_no_image(world: World) -> None:
    assert await seen("/home/me/adapter", world) is None
