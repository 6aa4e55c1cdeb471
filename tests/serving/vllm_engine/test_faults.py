"""vLLM's faults: requests fail cleanly, it is started again, and in the end the server ends."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.metrics import Metrics
from serving.vllm_engine.engine import start_engine
from tasks.contract.errors import GpuIncompatible, InvalidWorkspace, ModelNotSupported, OutOfMemory
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tests.serving.running import Running, serve, vllm_config
from tests.serving.test_openai import error_of, events_of

LONG = {"max_tokens": 300, "ignore_eos": True, "stream": True}


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which a test says what is to go wrong."""
    file = tmp_path / "faults" / "faults.json"
    file.parent.mkdir()
    monkeypatch.setenv("FAKE_VLLM_FAULTS", str(file))
    monkeypatch.setenv("FAKE_VLLM_PARROT", "1")
    return file


def noted(faults: Path, kind: str) -> list[Any]:
    """What the fake was asked, of one kind."""
    log = faults.with_name("requests.jsonl")
    lines = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    return [line[kind] for line in lines if kind in line]


@pytest.fixture
def config(toy_model: Path, toy_adapters: tuple[Path, Path], faults: Path) -> ServerConfig:
    return ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        adapters=(AdapterSource("first", toy_adapters[0]),),
        max_concurrency=4,
        engine="vllm",
        vllm=vllm_config(restarts=1, silence_s=4.0),
    )


@pytest.fixture
def failing(config: ServerConfig) -> Iterator[Running]:
    with serve(config) as running:
        yield running


def is_well(server: Running) -> bool:
    return server.client.get("/health").status_code == 200


def go_wrong(faults: Path, fault: str, *, after: int = 3) -> None:
    faults.write_text(json.dumps({"fault": fault, "after": after}))


@pytest.mark.parametrize("fault", ["die", "hang", "dead"])
def test_a_vllm_that_is_gone_fails_its_requests_and_is_started_again_with_its_adapters(
    failing: Running, faults: Path, until: Callable[..., None], fault: str
) -> None:
    before = failing.chat("the cat", model="first").json()["choices"]
    go_wrong(faults, fault)
    *told, last = events_of(failing.chat("the cat", **LONG))
    assert told
    assert last["error"]["code"] == "restarting"
    faults.unlink()
    until(lambda: len(noted(faults, "start")) == 2 and is_well(failing), within_s=60)
    assert failing.chat("the cat", model="first").json()["choices"] == before


def test_while_it_is_started_again_requests_are_told_when_to_come_back(
    failing: Running, faults: Path
) -> None:
    go_wrong(faults, "die")
    failing.chat("the cat", **LONG)
    refused = failing.chat("the cat")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "restarting")
    assert int(refused.headers["retry-after"]) > 0
    assert failing.client.get("/health").status_code == 503
    assert failing.client.get("/live").status_code == 200


def test_one_that_dies_too_often_leaves_a_fault_by_which_the_server_ends(
    failing: Running, faults: Path, until: Callable[..., None]
) -> None:
    go_wrong(faults, "die")
    failing.chat("the cat", **LONG)
    faults.write_text(json.dumps({"start": "driver"}))
    until(lambda: failing.engine.fault is not None, within_s=60)
    assert isinstance(failing.engine.fault, GpuIncompatible)
    assert failing.engine.is_broken


@pytest.mark.parametrize("fault", ["error", "garbage", "cut"])
def test_a_fault_of_one_request_is_its_own(failing: Running, faults: Path, fault: str) -> None:
    go_wrong(faults, fault)
    assert failing.chat("the cat", max_tokens=30, ignore_eos=True).status_code == 500
    faults.unlink()
    assert failing.chat("the cat").status_code == 200
    assert len(noted(faults, "start")) == 1


def test_a_refusal_of_vllms_is_a_fault_of_ours_and_not_shown(
    failing: Running, faults: Path
) -> None:
    go_wrong(faults, "refuse", after=10**9)
    refused = failing.chat("the cat")
    assert refused.status_code == 500
    assert "as a test asked for" not in refused.text


def test_giving_up_ends_the_request_in_vllm(
    failing: Running, faults: Path, until: Callable[..., None]
) -> None:
    messages = [{"role": "user", "content": "a"}]
    body = {"messages": messages} | LONG | {"max_tokens": 3000}
    before = len(noted(faults, "gone"))  # an adapter's proof reads no further than it has to
    faults.write_text(json.dumps({"after": 1, "fault": "slow"}))
    with failing.client.stream("POST", "/v1/chat/completions", json=body) as told:
        next(told.iter_lines())
    until(lambda: len(noted(faults, "gone")) > before)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("memory", OutOfMemory), ("driver", GpuIncompatible), ("model", ModelNotSupported)],
)
def test_one_that_does_not_start_is_told_with_the_reason(
    config: ServerConfig, faults: Path, word: str, kind: type[Exception]
) -> None:
    faults.write_text(json.dumps({"start": word}))
    with pytest.raises(kind, match="vLLM has ended"):
        start_engine(config, metrics=Metrics())


def test_a_flag_that_it_does_not_know_is_told(config: ServerConfig) -> None:
    asked = replace(config.vllm, flags={"bogus-flag": "1"})
    with pytest.raises(InvalidWorkspace, match="--bogus-flag"):
        start_engine(replace(config, vllm=asked), metrics=Metrics())


def test_nothing_of_it_is_left_when_the_server_goes(config: ServerConfig) -> None:
    def children() -> set[psutil.Process]:
        mine = psutil.Process(os.getpid()).children(recursive=True)
        return {each for each in mine if "fake_vllm" in " ".join(each.cmdline())}

    others = children()  # of servers that are kept for other tests
    engine = start_engine(config, metrics=Metrics())
    assert children() > others
    started_s = time.monotonic()
    engine.close()
    assert time.monotonic() - started_s < 10
    assert children() == others


def test_its_own_metrics_stand_beside_those_of_the_door(failing: Running) -> None:
    failing.chat("the cat")
    lines = failing.client.get("/metrics").text.splitlines()
    assert [line for line in lines if line.startswith("vllm:prefix_cache_hits_total")]
    running = [line for line in lines if line.startswith("# TYPE vllm:num_requests_running ")]
    assert len(running) == 1
