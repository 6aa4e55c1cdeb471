"""Names that move from one adapter to another while the server answers."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from serving.canary import Canary, Guard
from tests.serving.hot import admin, break_weights, generation, load, state_of, text, unload
from tests.serving.running import Running


@pytest.fixture
def named(hot: Running) -> Running:
    """`mine@1` and `mine@2` are loaded, and the name `mine` is the first one's."""
    load(hot, "mine@1", "first")
    load(hot, "mine@2", "second")
    assert admin(hot, "promote", name="mine", version="mine@1").status_code == 200
    return hot


def test_a_name_is_moved_and_moved_back(named: Running) -> None:
    assert generation(named.chat("the cat", model="mine")) == "mine@1"
    admin(named, "promote", name="mine", version="mine@2")
    moved = named.chat("the cat", model="mine")
    assert (generation(moved), moved.json()["model"]) == ("mine@2", "mine")
    assert text(moved) == text(named.chat("the cat", model="mine@2"))
    admin(named, "rollback", name="mine")
    assert generation(named.chat("the cat", model="mine")) == "mine@1"


def test_a_stream_says_which_version_gives_it(named: Running) -> None:
    assert generation(named.chat("the cat", model="mine", stream=True)) == "mine@1"
    said = named.client.post("/chat", json={"prompt": "the cat", "model": "mine"})
    assert generation(said) == "mine@1"


def test_models_tell_the_version_behind_a_name(named: Running) -> None:
    told = named.client.get("/v1/models/mine").json()
    assert (told["root"], told["parent"]) == ("mine@1", "toy")


def test_the_former_one_goes_once_its_last_request_has_ended(
    named: Running, until: Callable[..., None]
) -> None:
    long = {"model": "mine", "max_tokens": 400, "min_tokens": 400}
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(generation(named.chat("the cat", **long))))
    asking.start()
    until(lambda: named.engine.load().running == 1)
    admin(named, "promote", name="mine", version="mine@2", unload_former=True)
    assert generation(named.chat("the cat", model="mine")) == "mine@2"
    assert not said
    asking.join()
    assert said == ["mine@1"]
    peft = named.engine._batch._forward._peft
    assert peft is not None
    until(lambda: [*peft.peft_config] == ["adapter-mine@2"])
    refused = admin(named, "rollback", name="mine")
    assert (refused.status_code, "load the adapter again" in refused.text) == (409, True)


def test_an_adapter_that_a_name_needs_is_not_unloaded(named: Running) -> None:
    refused = unload(named, "mine@1")
    assert (refused.status_code, "mine is answered by it" in refused.text) == (409, True)
    admin(named, "canary", name="mine", version="mine@2", share=0.5, for_s=60)
    assert "a canary is answered by it" in unload(named, "mine@2").text


def test_weights_that_another_name_needs_stay_when_theirs_are_replaced(named: Running) -> None:
    load(named, "mine@1", "second", load_inplace=True)
    assert text(named.chat("the cat", model="mine@1")) == text(
        named.chat("the cat", model="mine@2")
    )
    assert generation(named.chat("the cat", model="mine")) == "mine@1"
    assert text(named.chat("the cat", model="mine")) != text(named.chat("the cat", model="mine@2"))


def test_what_cannot_be_promoted_is_refused_and_moves_nothing(named: Running) -> None:
    assert admin(named, "promote", name="mine", version="mine@3").status_code == 404
    assert admin(named, "promote", name="toy", version="mine@1").status_code == 400
    assert (
        admin(named, "canary", name="mine", version="mine@1", share=1, for_s=9).status_code == 409
    )
    assert (
        admin(named, "canary", name="mine", version="mine@2", share=2, for_s=9).status_code == 400
    )
    assert generation(named.chat("the cat", model="mine")) == "mine@1"


@pytest.mark.parametrize("path", ["promote", "rollback", "canary", "canary/stop"])
def test_only_who_bears_the_key_moves_names(named: Running, path: str) -> None:
    body = {"name": "mine", "version": "mine@2"}
    assert named.client.post(f"/admin/{path}", json=body).status_code == 401
    assert named.client.get("/admin/adapters").status_code == 401


def test_a_canary_has_its_share_and_who_asks_has_the_one_that_it_wants(named: Running) -> None:
    admin(named, "canary", name="mine", version="mine@2", share=0.0, for_s=60)
    asked = {"always": "mine@2", "never": "mine@1", None: "mine@1"}
    for wish, version in asked.items():
        headers = {"X-Kaitoflow-Canary": wish} if wish else {}
        body = {"model": "mine", "prompt": "the", "max_tokens": 2}
        said = named.client.post("/v1/completions", json=body, headers=headers)
        assert generation(said) == version
    admin(named, "canary", name="mine", version="mine@2", share=1.0, for_s=60)
    assert generation(named.chat("the cat", model="mine")) == "mine@2"
    admin(named, "canary/stop", name="mine")
    assert generation(named.chat("the cat", model="mine")) == "mine@1"
    wrong = {"X-Kaitoflow-Canary": "sometimes"}
    body = {"model": "mine", "prompt": "the"}
    assert named.client.post("/v1/completions", json=body, headers=wrong).status_code == 400


def test_a_canary_that_fails_trips_back_by_itself(
    named: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_weights(named, "mine@2", monkeypatch)
    admin(named, "canary", name="mine", version="mine@2", share=1.0, for_s=60)
    assert named.chat("the cat", model="mine").status_code == 500
    assert generation(named.chat("the cat", model="mine")) == "mine@1"
    canary = state_of(named, "mine")["canary"]
    assert canary["verdict"] == "tripped"
    assert "1 of 1 answers of mine@2 failed" in canary["reason"]
    assert 'kaitoflow:requests_failed_total{model_name="mine@2"} 1.0' in (
        named.client.get("/metrics").text
    )


def test_answers_are_counted_by_version(named: Running) -> None:
    named.chat("the cat", model="mine")
    assert 'request_success_total{finished_reason="length",model_name="mine@1"}' in (
        named.client.get("/metrics").text
    )


def test_who_is_promoted_ends_its_canary(named: Running) -> None:
    admin(named, "canary", name="mine", version="mine@2", share=0.1, for_s=60)
    admin(named, "promote", name="mine", version="mine@2")
    assert state_of(named, "mine") == {
        "name": "mine",
        "version": "mine@2",
        "former": "mine@1",
        "canary": None,
    }


def canary(**guard: Any) -> Canary:
    return Canary("new", 0.5, ends_s=100.0, guard=Guard(**guard))


def told(canary: Canary, *, new: int = 0, old: int = 0, s_per_token: float = 0.1) -> None:
    for count, is_candidate, seconds in ((old, False, 0.1), (new, True, s_per_token)):
        for _ in range(count):
            canary.count(is_candidate=is_candidate, seconds=10 * seconds, tokens=10)


def test_a_candidate_that_is_slower_by_the_token_trips() -> None:
    tried = canary(least_requests=5, most_slowdown=2.0)
    told(tried, new=5, old=5, s_per_token=0.15)
    assert not tried.reason
    told(tried, new=20, s_per_token=0.5)
    assert tried.verdict == "tripped"
    assert "s a token" in tried.reason


def test_a_few_slow_answers_conclude_nothing() -> None:
    tried = canary(least_requests=5)
    told(tried, new=4, old=50, s_per_token=9.0)
    assert tried.verdict == "running"


def test_failures_count_beyond_those_of_what_serves() -> None:
    tried = canary(most_error_rate=0.1, least_requests=10)
    for _ in range(10):
        tried.count(is_candidate=False, seconds=1, tokens=None)
        tried.count(is_candidate=True, seconds=1, tokens=None)
    assert tried.verdict == "running"


def test_a_canary_ends_with_its_time_and_says_whether_that_was_enough() -> None:
    enough, few = canary(least_requests=5), canary(least_requests=5)
    told(enough, new=5, old=5)
    told(few, new=4, old=5)
    assert enough.takes("always", now_s=99.9)
    assert not enough.takes("always", now_s=100.0)
    few.look(now_s=100.0)
    assert (enough.verdict, few.verdict) == ("passed", "too_few")


def test_a_share_is_what_is_taken() -> None:
    tried = canary()
    taken = sum(tried.takes(None, now_s=0.0) for _ in range(4000))
    assert 1700 < taken < 2300
