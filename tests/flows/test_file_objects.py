"""What a file brings takes the place of what is there, with its faults."""

from typing import Any

import pytest

from flows.places.base import with_file_objects
from tasks.contract.workspace import Manifests
from tasks.platform.base import World
from tasks.platform.named_objects import secret_faults
from tests.builders import tuning_workspace

WORKSPACE = tuning_workspace()
PUSH = ("Secret", "push")
LOGIN = {"metadata": {"name": "push"}, "stringData": {".dockerconfigjson": '{"auths": {}}'}}
BROKEN = {"metadata": {"name": "push"}, "stringData": {"password": "p"}}


def world(**given: Any) -> World:
    faults = secret_faults(WORKSPACE, {"push": BROKEN})
    return World(config_maps={}, has_secret=lambda _name: True, faults=faults, **given)


def seen(secret: Any, **given: Any) -> World:
    return with_file_objects(
        world(**given), Manifests(workspace=WORKSPACE, secrets={"push": secret})
    )


def test_a_secret_of_the_file_mends_that_of_the_cluster() -> None:
    mended = seen(LOGIN, is_cluster=True, push=True)
    assert mended.faults == {}
    assert mended.docker_config == b'{"auths": {}}'


def test_a_secret_of_the_file_that_cannot_be_used_is_told_and_not_pushed_with() -> None:
    broken = seen(BROKEN, is_cluster=True, push=True, docker_config=b"{}")
    assert broken.faults[PUSH].reason == "SecretUnusable"
    assert broken.docker_config is None


@pytest.mark.parametrize(("push", "told"), [(True, {PUSH}), (False, set())])
def test_one_machine_needs_a_login_for_a_push_alone(push: bool, told: set[tuple[str, str]]) -> None:
    assert {*seen(BROKEN, push=push).faults} == told
