"""A candidate that passed its gate answers a share of the requests of a server that serves."""

import asyncio
from pathlib import Path

import pytest

from flows.decide_candidate import decide, try_candidate_out
from tasks.contract.artifacts import Endpoint
from tasks.contract.status import ConditionType
from tasks.contract.workspace import Workspace
from tasks.platform.local import LocalPlatform
from tests.flows.retuned import CANDIDATE, PASSES, told, tuned, work_here
from tests.serving.hot import admin, break_weights, generation, load, state_of
from tests.serving.running import Running


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlatform:
    here = work_here(tmp_path / "home", monkeypatch)
    monkeypatch.setattr(here, "is_serving", lambda _workspace: True)  # by a thread of this process
    return here


async def on_trial(platform: LocalPlatform, server: Running) -> Workspace:
    """A Workspace that the server serves, with a candidate that is to be tried out there."""
    workspace = await tuned(platform, promotion="canary", canary="100% for 10m")
    status = platform.store.read_status(workspace)
    status.endpoint = Endpoint(url=server.url, model="tuned")
    status.set_condition(ConditionType.INFERENCE_READY, status="True", reason="Ready", generation=1)
    platform.store.write_status(workspace, status)
    platform.admin_key_file(workspace).write_text("open-sesame")
    for version, path in (("tuned@1", "first"), ("tuned@2", "second")):
        load(server, version, path)
    admin(server, "promote", name="tuned", version="tuned@1")
    await decide(workspace, CANDIDATE, PASSES)
    return workspace


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
