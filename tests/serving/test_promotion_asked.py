"""The control side asks a server that serves for another adapter."""

import asyncio
from pathlib import Path

import pytest

from tasks.contract.errors import AdapterMismatch, ServerNotReady
from tasks.inference.promotion import Canary, LiveServer, promote, roll_back, serving_version
from tests.serving.hot import generation, root
from tests.serving.running import Running


@pytest.fixture
def live(hot: Running) -> LiveServer:
    return LiveServer(hot.url, "open-sesame")


async def test_a_candidate_is_promoted_and_taken_back(hot: Running, live: LiveServer) -> None:
    await promote(live, name="mine", version="mine@1", adapter="first")
    for _ in range(2):  # a run that was killed asks again
        await promote(live, name="mine", version="mine@2", adapter="second")
    assert generation(hot.chat("the cat", model="mine")) == "mine@2"
    assert await serving_version(live, name="mine") == "mine@2"
    assert await roll_back(live, name="mine") == "mine@1"
    assert generation(hot.chat("the cat", model="mine")) == "mine@1"


async def test_a_candidate_that_nobody_asked_is_not_promoted_and_goes(
    hot: Running, live: LiveServer
) -> None:
    await promote(live, name="mine", version="mine@1", adapter="first")
    canary = Canary(share=0.5, for_s=0.1)
    tried = await promote(live, name="mine", version="mine@2", adapter="second", canary=canary)
    assert tried is not None
    assert (tried.verdict, tried.requests) == ("too_few", 0)
    assert await serving_version(live, name="mine") == "mine@1"
    assert "mine@2" not in hot.engine.models


async def test_a_candidate_that_passed_is_promoted(hot: Running, live: LiveServer) -> None:
    await promote(live, name="mine", version="mine@1", adapter="first")
    canary = Canary(share=1.0, for_s=3.0, least_requests=2, most_slowdown=100.0)
    trying = asyncio.create_task(
        promote(live, name="mine", version="mine@2", adapter="second", canary=canary)
    )
    while not trying.done():
        await asyncio.to_thread(hot.chat, "the cat", model="mine", max_tokens=2)
    tried = await trying
    assert tried is not None
    assert tried.verdict == "passed"
    assert await serving_version(live, name="mine") == "mine@2"


async def test_what_the_server_refuses_is_the_error_that_it_names(
    hot: Running, live: LiveServer
) -> None:
    (root(hot) / "first" / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterMismatch, match="only LORA can be served"):
        await promote(live, name="mine", version="mine@1", adapter="first")
    assert await serving_version(live, name="mine") is None


async def test_a_wrong_key_and_a_server_that_is_away_are_told(hot: Running, tmp_path: Path) -> None:
    with pytest.raises(ServerNotReady, match="needs a key"):
        await serving_version(LiveServer(hot.url, "wrong"), name="mine")
    with pytest.raises(ServerNotReady, match="does not answer"):
        await serving_version(LiveServer("http://127.0.0.1:9", "any"), name="mine")
