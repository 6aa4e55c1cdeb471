"""More adapters than memory is to hold: the least recently used make way and come back."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tasks.contract.programs.serving import ServerConfig
from tests.serving.hot import KEY, load, names, root, text, unload
from tests.serving.running import Running, serve

MOST = 2
ADAPTERS = ("a", "b", "c", "d", "e")


@pytest.fixture
def crowded(toy_model: Path, toy_adapters: tuple[Path, Path], tmp_path: Path) -> Iterator[Running]:
    """A server that has five adapters and memory for two; `b` has a template of its own."""
    for number, name in enumerate(ADAPTERS):
        shutil.copytree(toy_adapters[number % 2], tmp_path / "adapters" / name)
    (tmp_path / "key").write_text("open-sesame\n")
    config = ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        admin_key_file=tmp_path / "key",
        adapters_dir=tmp_path / "adapters",
        max_loaded_adapters=MOST,
        max_concurrency=4,
    )
    with serve(config) as running:
        for name in ADAPTERS:
            assert load(running, name, name).status_code == 200
        yield running


def in_memory(server: Running) -> list[str]:
    told = server.client.get("/admin/adapters", headers=KEY).json()["versions"]
    return [each["version"] for each in told if each["in_memory"]]


def test_all_are_listed_and_so_many_as_may_are_in_memory(crowded: Running) -> None:
    assert names(crowded) == ["toy", *ADAPTERS]
    assert in_memory(crowded) == ["toy", "d", "e"]


def test_one_that_made_way_comes_back_and_says_what_it_said(crowded: Running) -> None:
    before = text(crowded.chat("the cat", model="e"))
    assert text(crowded.chat("the cat", model="a")) == before  # the same weights by another name
    assert text(crowded.chat("the cat", model="b")) == text(crowded.chat("the cat", model="d"))
    assert text(crowded.chat("the cat", model="e")) == before
    assert text(crowded.chat("the cat", model="toy")) != before


def test_the_least_recently_used_one_makes_way(crowded: Running) -> None:
    crowded.chat("the cat", model="d")
    crowded.chat("the cat", model="a")
    assert in_memory(crowded) == ["toy", "a", "d"]


def test_one_that_answers_stays_and_who_asks_for_another_waits(crowded: Running) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 300}
    body |= {"temperature": 0, "ignore_eos": True}
    with crowded.client.stream("POST", "/v1/chat/completions", json=body | {"model": "d"}) as told:
        lines = told.iter_lines()
        next(lines)
        for name in ("a", "b", "c"):
            text(crowded.chat("the cat", model=name, max_tokens=1))
            assert "d" in in_memory(crowded)
        assert list(lines)[-2:] == ["data: [DONE]", ""]


async def test_requests_for_more_adapters_than_fit_at_once_are_all_answered(
    crowded: Running,
) -> None:
    alone = {name: text(crowded.chat("the dog", model=name)) for name in ADAPTERS}
    body = {
        "messages": [{"role": "user", "content": "the dog"}],
        "temperature": 0,
        "max_tokens": 12,
    }
    async with httpx2.AsyncClient(base_url=crowded.url, timeout=60, trust_env=False) as client:
        asked = [*ADAPTERS, *reversed(ADAPTERS), *ADAPTERS]
        answers = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=body | {"model": name}) for name in asked)
        )
    assert [text(answer) for answer in answers] == [alone[name] for name in asked]
    assert len(in_memory(crowded)) == 1 + MOST


def test_one_whose_files_are_others_by_now_does_not_come_back(crowded: Running) -> None:
    weights = root(crowded) / "a" / "adapter_model.safetensors"
    shutil.copy(root(crowded) / "b" / "adapter_model.safetensors", weights)
    refused = crowded.chat("the cat", model="a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "adapter_changed")
    assert load(crowded, "a", "a", load_inplace=True).status_code == 200
    assert text(crowded.chat("the cat", model="a"))


def test_one_whose_files_are_gone_is_told_so_and_the_others_answer(crowded: Running) -> None:
    shutil.rmtree(root(crowded) / "a")
    refused = crowded.chat("the cat", model="a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "AdapterMismatch")
    assert text(crowded.chat("the cat", model="b"))


def test_one_that_is_away_is_unloaded_as_any_other(crowded: Running) -> None:
    assert unload(crowded, "a").status_code == 200
    assert "a" not in names(crowded)
    assert crowded.chat("the cat", model="a").status_code == 404


def test_the_tokens_of_a_conversation_are_by_the_template_of_one_that_is_away(
    crowded: Running,
) -> None:
    asked = {"messages": [{"role": "user", "content": "a"}]}
    own, base = (
        crowded.client.post("/tokenize", json=asked | {"model": name}).json()["tokens"]
        for name in ("b", "toy")
    )
    assert own != base


def test_a_name_that_is_almost_that_of_one_that_is_away_is_refused(crowded: Running) -> None:
    shutil.copytree(root(crowded) / "e", root(crowded) / "x")
    assert load(crowded, "x.y", "x").status_code == 200
    for name in ("a", "b"):
        crowded.chat("the cat", model=name)
    assert "almost the same name" in load(crowded, "x-dot-y", "x").text


def test_metrics_tell_who_is_in_work_and_who_came_back(crowded: Running) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 300}
    body |= {"model": "a", "ignore_eos": True}
    with crowded.client.stream("POST", "/v1/chat/completions", json=body) as told:
        next(told.iter_lines())
        lines = crowded.client.get("/metrics").text.splitlines()
    info = next(each for each in lines if each.startswith("vllm:lora_requests_info"))
    labels, _, value = info.partition("} ")
    assert 'max_lora="2"' in labels
    assert 'running_lora_adapters="a"' in labels
    assert 'waiting_lora_adapters=""' in labels
    assert abs(float(value) - time.time()) < 60
    assert 'kaitoflow:adapters_brought_back_total{model_name="a"} 1.0' in lines
