"""A plan asks servers that are there: a registry behind a password, and a server of files."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.artifacts import PublishedImage, Tuned
from tasks.contract.errors import (
    DatasetUnreachable,
    DownloadFailed,
    KaitoflowError,
    RegistryDenied,
    RegistryUnavailable,
)
from tasks.contract.workspace import Workspace
from tasks.image.pod.push import push_image
from tasks.plan import asking, tuned
from tasks.plan.asking import ask
from tasks.plan.checks import make_plan
from tasks.plan.findings import DatasetSeen, Findings
from tasks.plan.look import look
from tasks.plan.registries import look_for_free_number
from tasks.platform.base import World
from tasks.remote.manifest import blob_path
from tasks.settings import Settings
from tests.builders import tuning_workspace
from tests.cluster.registry import RunningRegistry, docker_config, running_registry
from tests.dataset.web import Web, running_web
from tests.image.builders import push_config, write_adapter

HERE = World(config_maps={}, has_secret=lambda _name: True)
ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("private"), auth=True) as running:
        yield running


@pytest.fixture
def web() -> Iterator[Web]:
    with running_web() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers: its host and port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def asked_about(*urls: str, image: str = "") -> Workspace:
    source = {"urls": [*urls] or ["file:///no/such"]}
    output = {"image": image or "placeholder:1", "imagePushSecret": "push"}
    return tuning_workspace(input=source, output=output)


async def found(
    world: World = HERE, *urls: str, image: str = "", limit_s: float = 60.0
) -> Findings:
    world = replace(world, push=bool(image))
    settings = Settings(allow_local_addresses=True, plan_timeout_s=limit_s)
    workspace = asked_about(*urls, image=image)
    return await look(workspace, world, settings, list_nodes=None, list_holders=None)


async def test_the_sizes_of_the_files_are_asked_for_in_order(web: Web) -> None:
    urls = web.serve_bytes("/a", b"x" * 2000), web.serve_bytes("/b", b"x" * 10)
    assert (await found(HERE, *urls)).dataset == DatasetSeen(bytes=(2000, 10))


async def test_a_file_beside_addresses_does_not_keep_them_from_being_asked(web: Web) -> None:
    url = web.serve_bytes("/a", b"x" * 2000)
    seen = (await found(HERE, "file:///no/such", url)).dataset
    assert seen == DatasetSeen(bytes=(None, 2000))


async def test_a_web_page_is_named_without_what_may_be_secret(web: Web) -> None:
    url = web.serve_bytes("/blob/a.parquet", b"<html>", Content_Type="text/html")
    seen = (await found(HERE, f"{url}?token=s3cret")).dataset
    assert isinstance(seen, DatasetSeen)
    assert seen.web_pages == (url,)


async def test_a_dataset_that_is_absent_keeps_its_reason_and_fix(web: Web) -> None:
    url = web.serve("/a.jsonl", lambda handler: handler.answer(404))
    missing = (await found(HERE, url)).dataset
    assert isinstance(missing, DatasetUnreachable)
    assert "check the spelling" in str(missing)


async def test_a_push_that_is_allowed_is_proved(registry: RunningRegistry) -> None:
    login = docker_config(registry.host).encode()
    may_push = (
        await found(replace(HERE, docker_config=login), image=f"{registry.host}/a:1")
    ).may_push
    assert may_push is True


async def test_a_push_without_the_password_is_denied_by_the_secret_s_name(
    registry: RunningRegistry,
) -> None:
    world = replace(HERE, docker_config=b'{"auths": {}}')
    denied = (await found(world, image=f"{registry.host}/a:1")).may_push
    assert isinstance(denied, RegistryDenied)
    assert "Secret push has no login" in str(denied)
    assert "/tmp" not in str(denied)


async def test_from_a_cluster_no_address_inside_its_network_is_asked(
    registry: RunningRegistry, web: Web
) -> None:
    url = web.serve_bytes("/a.jsonl", b"x")
    cluster = replace(HERE, is_cluster=True)
    findings = await found(cluster, url, image=f"{registry.host}/a:1")
    assert [_reason(findings.dataset), _reason(findings.may_push)] == ["AddressForbidden"] * 2
    assert web.asked == []


def _reason(finding: object) -> str:
    assert isinstance(finding, KaitoflowError)
    return finding.reason


async def test_forty_plans_at_once_are_all_refused_for_a_dead_address(web: Web) -> None:
    url = web.serve("/gone.parquet", lambda handler: handler.answer(404))
    workspace = tuning_workspace(input={"urls": [url]})
    looks = await asyncio.gather(*(found(HERE, url, limit_s=5) for _ in range(40)))
    plans = [make_plan(workspace, HERE, each) for each in looks]
    assert [plan.refused[0].reason for plan in plans] == ["DatasetUnreachable"] * 40


async def test_a_variable_that_is_no_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITOFLOW_PLATFROM", "kubernetes")
    plan = make_plan(tuning_workspace(), HERE, await found())
    [told] = [check.detail for check in plan.checks if check.name == "words"]
    assert "did you mean KAITOFLOW_PLATFORM?" in told


async def test_a_server_that_never_answers_is_told_after_a_while(silent: str) -> None:
    findings = await found(HERE, f"http://{silent}/a", image=f"{silent}/a:1", limit_s=0.2)
    assert isinstance(findings.dataset, DownloadFailed)
    assert isinstance(findings.may_push, RegistryUnavailable)
    assert f"http://{silent}/a was asked; there was no answer within 0.2 s" in str(findings.dataset)


async def test_the_first_silence_ends_the_look_at_many_files(silent: str) -> None:
    urls = [f"http://{silent}/{number}" for number in range(256)]
    since_s = time.monotonic()
    await found(HERE, *urls, limit_s=0.2)
    assert time.monotonic() - since_s < 2


async def test_what_has_to_queue_is_not_the_later_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "AT_ONCE", 2)
    questions = [ask(lambda: time.sleep(0.1), limit_s=0.3) for _ in range(12)]
    await asyncio.gather(*questions)


async def test_a_hung_question_gives_its_turn_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "AT_ONCE", 1)
    with pytest.raises(TimeoutError):
        await ask(lambda: time.sleep(5), limit_s=0.05)
    assert await ask(lambda: "answered", limit_s=1) == "answered"


def test_a_hung_question_holds_up_no_process_s_end() -> None:
    program = """
import asyncio, time
from tasks.plan.asking import ask
async def main():
    try:
        await ask(lambda: time.sleep(60), limit_s=0.05)
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, timeout=20
    )
    assert (done.stdout, done.stderr) == (b"given up\n", b"")


def after_tuning(world: World, reference: str, *, asked: str = "", **image: Any) -> World:
    """The world in which what `found` asks about was tuned, and published as this image."""
    published = PublishedImage(reference=reference, digest=DIGEST, **image)
    training = tuned.training(asked_about(image=asked), world)
    known = Tuned(training=training, generation=1, image=published)
    return replace(world, tuned_before=[known])


async def test_a_registry_is_asked_for_the_image_that_was_tuned(registry: RunningRegistry) -> None:
    login = docker_config(registry.host).encode()
    image = f"{registry.host}/a:1"
    world = after_tuning(replace(HERE, docker_config=login), image, asked=image, pushed=True)
    assert (await found(world, image=image)).has_tuned_image is False


async def test_a_registry_that_refuses_has_not_said_that_the_image_is_gone(
    registry: RunningRegistry,
) -> None:
    image = f"{registry.host}/a:1"
    findings = await found(after_tuning(HERE, image, asked=image, pushed=True), image=image)
    assert isinstance(findings.has_tuned_image, RegistryDenied)


async def test_an_image_that_was_only_kept_is_not_in_its_registry(tmp_path: Path) -> None:
    image = "127.0.0.1:1/a:1"
    world = after_tuning(HERE, "r.example.com/a:1", asked=image, layout_dir=tmp_path)
    assert (await found(world, image=image)).has_tuned_image is False


async def test_a_number_is_free_where_neither_this_machine_nor_the_registry_has_its_image(
    tmp_path: Path,
) -> None:
    image = "127.0.0.1:1/a:1"
    (tmp_path / "images").mkdir()
    named = {"org.opencontainers.image.ref.name": f"{image}-g2"}
    index = {"manifests": [{"digest": DIGEST, "annotations": named}]}
    (tmp_path / "images" / "index.json").write_text(json.dumps(index))
    workspace = asked_about(image=image)
    for push in (False, True):  # a registry that is away is asked again by the push
        world = replace(HERE, home=tmp_path, push=push)
        assert await look_for_free_number(workspace, 2, world, Settings()) == 3


async def test_a_number_that_a_registry_has_an_image_of_is_not_free(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    image, login = f"{registry.host}/numbered:1", tmp_path / "login.json"
    login.write_text(docker_config(registry.host))
    adapter = write_adapter(tmp_path / "adapter")
    push_image(push_config(adapter, f"{image}-g2", docker_config=login))
    world = replace(HERE, docker_config=login.read_bytes(), push=True)
    assert await look_for_free_number(asked_about(image=image), 2, world, Settings()) == 3


async def test_on_one_machine_the_image_is_looked_for_in_its_layout(tmp_path: Path) -> None:
    world = after_tuning(HERE, "r.example.com/a:1", layout_dir=tmp_path)
    assert (await found(world)).has_tuned_image is False
    blob = tmp_path / blob_path(DIGEST)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"{}")
    assert (await found(world)).has_tuned_image is True


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "True"),
        ("{{ nobody.knows }}", "cannot be rendered"),
        ("/mnt/mine.jinja", "True"),
        ("", "None"),
    ],
)
async def test_a_chat_template_of_the_settings_is_tried_while_others_are_asked(
    template: str, found: str
) -> None:
    settings = {"training_config": {"ModelConfig": {"chat_template": template} if template else {}}}
    maps = {"settings": {"training_config.yaml": json.dumps(settings)}}
    told = await look(
        tuning_workspace(config="settings", input={"urls": ["file:rows.jsonl"]}),
        replace(HERE, config_maps=maps),
        Settings(),
        list_nodes=None,
        list_holders=None,
    )
    assert found in str(told.chat_template)
