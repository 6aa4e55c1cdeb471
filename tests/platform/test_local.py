"""The local platform: one run at a time, secrets where pods find them, everything stopped."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contract.artifacts import Endpoint
from tasks.contract.errors import RunInProgress
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace
from tasks.platform.base import Pod
from tasks.platform.local import LocalPlatform, is_free
from tasks.settings import Settings
from tests.builders import tuning_workspace
from tests.platform.test_processes import toy


@pytest.fixture
def platform(tmp_path: Path) -> LocalPlatform:
    return LocalPlatform(Settings(home=tmp_path, stop_grace_s=5))


def applied(platform: LocalPlatform, **objects: object) -> Workspace:
    given = {"workspace": tuning_workspace(), **objects}
    return platform.store.apply(Manifests.model_validate(given))


async def test_a_second_run_of_a_workspace_is_refused(platform: LocalPlatform) -> None:
    workspace = applied(platform)
    async with platform.hold_run(workspace):
        with pytest.raises(RunInProgress, match="another run holds it.*kaitoflow stop tuned"):
            async with platform.hold_run(workspace):
                pass


async def test_a_run_reads_the_workspace_with_the_secrets_that_it_was_not_told(
    platform: LocalPlatform,
) -> None:
    source = {"urls": ["https://host/a.jsonl?sig=canary"]}
    workspace = applied(platform, workspace=tuning_workspace(input=source))
    assert await platform.apply(workspace.redacted()) == workspace


async def test_a_workspace_that_was_typed_into_a_form_is_kept(platform: LocalPlatform) -> None:
    kept = await platform.apply(tuning_workspace())
    assert kept.metadata.uid
    assert platform.store.read(kept) == kept


async def test_a_run_that_has_ended_lets_the_next_one_in(platform: LocalPlatform) -> None:
    workspace = applied(platform)
    for _ in range(2):
        async with platform.hold_run(workspace):
            assert platform.run_holder(workspace) is not None
    assert platform.run_holder(workspace) is None


async def test_a_secret_of_the_file_becomes_a_docker_config(platform: LocalPlatform) -> None:
    content = {"auths": {"r": {"auth": "x"}}}
    secret = {"stringData": {".dockerconfigjson": json.dumps(content)}}
    workspace = applied(platform, secrets={"push": secret})
    path = await platform.docker_config(workspace, "push")
    assert path is not None
    assert json.loads(path.read_text()) == content


async def test_without_a_secret_the_users_own_docker_config_is_taken(
    platform: LocalPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    workspace = applied(platform)
    assert await platform.docker_config(workspace, "push") is None
    (tmp_path / "config.json").write_text("{}")
    assert await platform.docker_config(workspace, "push") == tmp_path / "config.json"


async def test_stopping_ends_every_container(platform: LocalPlatform) -> None:
    workspace = applied(platform)
    pod = Pod(name="toys", containers=(toy("wait"),))
    lines = platform.follow(workspace, pod, pod.containers[0])
    await anext(lines)
    assert await platform.stop(workspace) == ["toy"]
    assert await platform.stop(workspace) == []
    with pytest.raises(Exception, match="ended without a word"):
        await anext(lines)


async def test_an_edit_leaves_what_serves_and_is_served_at_its_address(
    platform: LocalPlatform,
) -> None:
    workspace = applied(platform)
    assert not platform.is_serving(workspace)
    server = replace(toy("wait"), name="serve")
    lines = platform.follow(workspace, Pod(name="inference", containers=(server,)), server)
    await anext(lines)
    edited = applied(platform, workspace=tuning_workspace(input={"urls": ["https://b.c/d.json"]}))
    assert (workspace.metadata.generation, edited.metadata.generation) == (1, 2)
    assert platform.is_serving(edited)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        platform.store.write_status(
            edited, WorkspaceStatus(endpoint=Endpoint(url=url, model="tuned"))
        )
        assert (await platform.server_address(edited, port=None)).url == url
    await platform.stop(edited)
    assert not platform.is_serving(edited)
    await lines.aclose()


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free(taken.getsockname()[1])
