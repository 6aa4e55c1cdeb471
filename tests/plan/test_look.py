"""A plan asks servers that are there: a registry behind a password, and a server of files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contract.errors import (
    ContainerKilled,
    DatasetUnreachable,
    KaitoflowError,
    RegistryDenied,
)
from tasks.plan import programs
from tasks.plan.findings import DatasetSeen, Findings
from tasks.plan.look import look
from tasks.plan.programs import Allowance
from tasks.platform.base import World
from tasks.settings import Settings
from tests.builders import tuning_workspace
from tests.cluster.registry import RunningRegistry, docker_config, running_registry
from tests.dataset.web import Web, running_web

HERE = World(config_maps={}, has_secret=lambda _name: True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("private"), auth=True) as running:
        yield running


@pytest.fixture
def web() -> Iterator[Web]:
    with running_web() as running:
        yield running


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is refused a look for those before it."""
    allowance = Allowance(most=100, another_after_s=1, clock=lambda: 0.0)
    monkeypatch.setattr(programs, "_allowance", allowance)


async def found(world: World = HERE, url: str = "", image: str = "") -> Findings:
    source = {"urls": [url or "file:///no/such"]}
    output = {"image": image or "placeholder:1", "imagePushSecret": "push"}
    world = replace(world, push=bool(image))
    settings = Settings(allow_local_addresses=True, plan_timeout_s=60)
    workspace = tuning_workspace(input=source, output=output)
    return await look(workspace, world, settings, list_nodes=None)


async def test_the_sizes_of_the_files_are_asked_for(web: Web) -> None:
    url = web.serve_bytes("/a.jsonl", b"x" * 2000)
    assert (await found(url=url)).dataset == DatasetSeen(bytes=(2000,))


async def test_a_dataset_that_is_absent_keeps_its_reason_and_fix(web: Web) -> None:
    url = web.serve("/a.jsonl", lambda handler: handler.answer(404))
    missing = (await found(url=url)).dataset
    assert isinstance(missing, DatasetUnreachable)
    assert "check the spelling" in str(missing)


async def test_a_push_that_is_allowed_is_proved(registry: RunningRegistry) -> None:
    login = docker_config(registry.host).encode()
    may_push = (
        await found(replace(HERE, docker_config=login), image=f"{registry.host}/a:1")
    ).may_push
    assert may_push is True


async def test_a_push_without_the_password_is_denied_by_the_secret_s_name(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    world = replace(HERE, docker_config=b'{"auths": {}}')
    denied = (await found(world, image=f"{registry.host}/a:1")).may_push
    assert isinstance(denied, RegistryDenied)
    assert str(tmp_path.parent.parent) not in str(denied)


async def test_from_a_cluster_no_address_inside_its_network_is_asked(
    registry: RunningRegistry, web: Web
) -> None:
    url = web.serve_bytes("/a.jsonl", b"x")
    cluster = replace(HERE, is_cluster=True)
    findings = await found(cluster, url=url, image=f"{registry.host}/a:1")
    assert [_reason(findings.dataset), _reason(findings.may_push)] == ["AddressForbidden"] * 2
    assert web.asked == []


def _reason(finding: object) -> str:
    assert isinstance(finding, KaitoflowError)
    return finding.reason


async def test_of_many_plans_at_once_most_go_without_a_look(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance = Allowance(most=1, another_after_s=5, clock=lambda: 0.0)
    monkeypatch.setattr(programs, "_allowance", allowance)
    url = web.serve_bytes("/a.jsonl", b"x")
    assert (await found(url=url)).dataset == DatasetSeen(bytes=(1,))
    left_out = (await found(url=url)).dataset
    assert isinstance(left_out, ContainerKilled)
    assert "kaitoflow plan" in str(left_out)


def test_looks_come_back_with_time_and_never_more_than_the_most() -> None:
    now_s = [0.0]
    allowance = Allowance(most=2, another_after_s=5, clock=lambda: now_s[0])
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    now_s[0] = 5.0
    assert [allowance.take() for _ in range(2)] == [True, False]
    now_s[0] = 500.0
    assert [allowance.take() for _ in range(3)] == [True, True, False]
