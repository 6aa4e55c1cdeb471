"""A candidate that passed its gate answers a share of the requests of a server that serves."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from flows.decide_candidate import decide, try_candidate_out
from flows.promote_adapter import have_serve
from tasks.contract.adapter_history import AdapterRecord
from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.programs.image import PushConfig
from tasks.contract.status import ConditionType
from tasks.contract.workspace import Workspace
from tasks.image.pod.push import push_image
from tasks.platform.local import LocalPlatform
from tests.flows.retuned import CANDIDATE, PASSES, image, told, tuned, work_here
from tests.serving.constant_load import PROMPTS, Load
from tests.serving.hot import admin, break_weights, generation, load, root, state_of, unload
from tests.serving.running import Running


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlatform:
    here = work_here(tmp_path / "home", monkeypatch)
    monkeypatch.setattr(here, "is_serving", lambda _workspace: True)  # by a thread of this process
    return here


async def on_trial(platform: LocalPlatform, server: Running) -> Workspace:
    """A Workspace that the server serves, with a candidate that is to be tried out there."""
    workspace = await served(platform, server, image(1), canary="100% for 10m")
    for version, path in (("tuned@1", "first"), ("tuned@2", "second")):
        load(server, version, path)
    admin(server, "promote", name="tuned", version="tuned@1")
    await decide(workspace, CANDIDATE, PASSES)
    return workspace


async def served(
    platform: LocalPlatform, server: Running, first: PublishedImage, *, canary: str
) -> Workspace:
    """A Workspace whose only adapter the server is said to serve, and a canary has the word."""
    workspace = await tuned(platform, first=first, promotion="canary", canary=canary)
    status = platform.store.read_status(workspace)
    status.endpoint = Endpoint(url=server.url, model="tuned")
    status.set_condition(ConditionType.INFERENCE_READY, status="True", reason="Ready", generation=1)
    platform.store.write_status(workspace, status)
    platform.admin_key_file(workspace).write_text("open-sesame")
    return workspace


def published(server: Running, layout: Path) -> list[PublishedImage]:
    """Both adapters of the server's folder as images that it finds."""
    object.__setattr__(server.config, "images_dir", layout)
    made = [
        push_image(
            PushConfig(
                adapter_dir=root(server) / folder,
                reference=image(number).reference,
                layout_dir=layout,
            )
        )
        for number, folder in enumerate(("first", "second"), start=1)
    ]
    return [PublishedImage(reference=each.reference, digest=each.digest) for each in made]


async def learned(clients: Load, server: Running) -> None:
    """What each version says alone; then the server has the first one by its name."""
    for version, path in (("tuned@1", "first"), ("tuned@2", "second")):
        load(server, version, path)
        await clients.learn(version)
    assert all(clients.texts["tuned@1", each] != clients.texts["tuned@2", each] for each in PROMPTS)
    admin(server, "promote", name="tuned", version="tuned@1")
    unload(server, "tuned@2")


@pytest.mark.slow
async def test_one_that_passes_takes_the_name_and_a_rollback_gives_it_back_unnoticed_by_clients(
    platform: LocalPlatform, hot: Running, tmp_path: Path
) -> None:
    first, second = published(hot, tmp_path / "images")
    workspace = await served(platform, hot, first, canary="50% for 10s")
    async with httpx2.AsyncClient(base_url=hot.url, timeout=60, trust_env=False) as client:
        clients = Load(client, name="tuned")
        await learned(clients, hot)
        clients.allow("tuned@1")
        asking = [asyncio.create_task(clients.go_on(number)) for number in range(8)]
        await clients.until_more("tuned@1")

        candidate = CANDIDATE.model_copy(update={"image": second})
        await decide(workspace, candidate, PASSES)
        clients.allow("tuned@1", "tuned@2")
        await try_candidate_out(workspace)
        clients.allow("tuned@2")
        await clients.until_more("tuned@2")
        assert told(platform, workspace) == (["served", "serving"], second.digest)
        promoted = platform.store.read_status(workspace).adapters.find(2)
        assert promoted.by == "canary"
        assert "canary on 50 % of the requests for 10 s: " in promoted.why

        clients.allow("tuned@1", "tuned@2")
        await have_serve(workspace, former(platform, workspace), by="ana", why="too long")
        clients.allow("tuned@1")
        await clients.until_more("tuned@1")
        clients.is_over = True
        await asyncio.gather(*asking)
    assert clients.wrong == []
    assert told(platform, workspace) == (["serving", "served"], first.digest)
    history = platform.store.read_status(workspace).adapters
    assert "the server moved its name while it served" in history.told


def former(platform: LocalPlatform, workspace: Workspace) -> AdapterRecord:
    """What `kaitoflow rollback` has serve."""
    found = platform.store.read_status(workspace).adapters.former
    assert found
    return found


async def test_one_that_fails_is_kept_out_with_the_reason_and_what_serves_goes_on(
    platform: LocalPlatform, hot: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = await on_trial(platform, hot)
    break_weights(hot, "tuned@2", monkeypatch)
    trial = asyncio.create_task(try_candidate_out(workspace))
    while not trial.done():
        await asyncio.to_thread(hot.chat, "the cat", model="tuned", max_tokens=2)
    await trial
    assert told(platform, workspace) == (["serving", "kept out"], "sha256:1")
    kept_out = platform.store.read_status(workspace).adapters.find(2)
    assert kept_out.by == "canary"
    assert "answers of tuned@2 failed" in kept_out.why
    assert generation(hot.chat("the cat", model="tuned")) == "tuned@1"


async def test_one_that_has_shown_nothing_waits_for_a_person(
    platform: LocalPlatform, hot: Running
) -> None:
    workspace = await on_trial(platform, hot)
    trial = asyncio.create_task(try_candidate_out(workspace))
    while not state_of(hot, "tuned")["canary"]:
        await asyncio.sleep(0.05)
    admin(hot, "canary/stop", name="tuned")
    await trial
    assert told(platform, workspace) == (["serving", "waiting"], "sha256:1")
    assert "the canary was stopped" in platform.store.read_status(workspace).adapters.told


async def test_a_run_that_was_killed_during_its_trial_goes_on_with_it(
    platform: LocalPlatform, hot: Running
) -> None:
    workspace = await on_trial(platform, hot)
    trial = asyncio.create_task(try_candidate_out(workspace))
    while not state_of(hot, "tuned")["canary"]:
        await asyncio.sleep(0.05)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert told(platform, workspace) == (["serving", "on trial"], "sha256:1")
    assert generation(hot.chat("the cat", model="tuned")) == "tuned@1"
    again = asyncio.create_task(try_candidate_out(workspace))
    while state_of(hot, "tuned")["canary"]["verdict"] != "running":
        await asyncio.sleep(0.05)
    admin(hot, "canary/stop", name="tuned")
    await again
    assert told(platform, workspace) == (["serving", "waiting"], "sha256:1")
