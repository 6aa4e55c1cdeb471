"""The control side asks a server that serves for another adapter."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.canary import Canary
from tasks.contract.errors import AdapterMismatch, ServerNotReady
from tasks.inference import promotion
from tasks.inference.promotion import (
    LiveServer,
    Tried,
    exchange,
    promote,
    roll_back,
    serving_version,
    try_out,
)
from tests.serving.hot import break_weights, generation, load, names, root, state_of
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


def trying(live: LiveServer, canary: Canary) -> "asyncio.Task[Tried]":
    tried = try_out(live, name="mine", version="mine@2", adapter="second", canary=canary)
    return asyncio.create_task(tried)


async def test_a_candidate_that_nobody_asked_says_nothing_and_goes(
    hot: Running, live: LiveServer
) -> None:
    await promote(live, name="mine", version="mine@1", adapter="first")
    tried = await trying(live, Canary(share=0.5, for_s=0.1))
    assert (tried.verdict, tried.requests) == ("too_few", 0)
    assert await serving_version(live, name="mine") == "mine@1"
    assert "mine@2" not in hot.engine.models


async def test_a_candidate_that_passed_stays_loaded_to_be_promoted(
    hot: Running, live: LiveServer
) -> None:
    await promote(live, name="mine", version="mine@1", adapter="first")
    canary = Canary(share=1.0, for_s=3.0, least_requests=2, most_slowdown=100.0)
    tries = trying(live, canary)
    while not tries.done():
        await asyncio.to_thread(hot.chat, "the cat", model="mine", max_tokens=2)
    assert (await tries).verdict == "passed"
    assert (await trying(live, canary)).verdict == "passed"  # a run that was killed asks again
    await promote(live, name="mine", version="mine@2", adapter="second")
    assert (await trying(live, canary)).verdict == "passed"
    assert await serving_version(live, name="mine") == "mine@2"


async def test_a_candidate_that_fails_where_what_serves_does_not_is_out_at_once(
    hot: Running, live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await promote(live, name="mine", version="mine@1", adapter="first")
    load(hot, "mine@2", "second")
    break_weights(hot, "mine@2", monkeypatch)
    tries = trying(live, Canary(share=1.0, for_s=600.0))
    while not tries.done():
        await asyncio.to_thread(hot.chat, "the cat", model="mine", max_tokens=2)
    tried = await tries
    assert tried.verdict == "tripped"
    assert "answers of mine@2 failed" in tried.reason
    assert await serving_version(live, name="mine") == "mine@1"


async def test_a_canary_whose_run_is_cancelled_ends(hot: Running, live: LiveServer) -> None:
    await promote(live, name="mine", version="mine@1", adapter="first")
    tries = trying(live, Canary(share=1.0, for_s=600.0))
    while not state_of(hot, "mine")["canary"]:
        await asyncio.sleep(0.01)
    tries.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tries
    assert state_of(hot, "mine")["canary"]["verdict"] == "stopped"


async def test_a_canary_whose_run_is_cancelled_before_the_server_answered_ends(
    hot: Running, live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, begun = promotion._Ask.__call__, asyncio.Event()

    async def unheard(ask: Any, method: str, path: str, body: Any = None) -> Any:
        told = await asks(ask, method, path, body)
        if path == "/admin/canary":
            begun.set()
            await asyncio.Event().wait()
        return told

    monkeypatch.setattr(promotion._Ask, "__call__", unheard)
    await promote(live, name="mine", version="mine@1", adapter="first")
    tries = trying(live, Canary(share=1.0, for_s=600.0))
    await begun.wait()
    tries.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tries
    assert state_of(hot, "mine")["canary"]["verdict"] == "stopped"


async def test_adapters_come_change_and_go_as_often_as_they_are_asked_to(
    hot: Running, live: LiveServer
) -> None:
    await exchange(live, load={"one": "first", "two": "first"}, unload=())
    said = hot.chat("the cat", model="two").json()["choices"]
    for _ in range(2):  # a run that was killed asks again
        await exchange(live, load={"two": "second", "three": "first"}, unload=["one"])
    assert sorted(names(hot)) == ["three", "toy", "two"]
    assert hot.chat("the cat", model="two").json()["choices"] != said
    assert hot.chat("the cat", model="three").json()["choices"] == said


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
