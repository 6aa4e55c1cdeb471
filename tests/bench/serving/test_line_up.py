import inspect
from dataclasses import replace
from pathlib import Path

import pytest
from transformers.cli.serve import Serve

from tests.bench.serving.line_up import (
    ENTRANTS,
    LeftOut,
    Setting,
    ours_mixed,
    transformers_serve,
    vllm_cpu,
)
from tests.serving import toy


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(
        weights=toy.make_model(tmp_path / "model"),
        work=tmp_path,
        dtype="float32",
        adapters=2,
        vllm=tmp_path / "vllm",
        llama_cpp=tmp_path / "llama.cpp",
    )


def test_a_peer_that_is_not_there_says_how_it_is_had(setting: Setting) -> None:
    with pytest.raises(LeftOut, match=r"vllm is not there: make test-vllm installs it"):
        vllm_cpu(setting)


def test_the_mixed_load_asks_for_the_base_and_each_adapter(setting: Setting) -> None:
    server = ours_mixed(setting)
    assert server.models == ["base", "adapter-1", "adapter-2"]


def test_each_flag_of_transformers_is_one_that_it_takes(setting: Setting) -> None:
    taken = inspect.signature(Serve.__init__).parameters
    words = map(str, transformers_serve(setting).command)
    flags = [word.removeprefix("--").replace("-", "_") for word in words if word[:2] == "--"]
    assert flags
    assert set(flags) <= set(taken)


def test_a_server_is_named_as_it_is_asked_for(setting: Setting) -> None:
    names = ("ours", "ours_one_adapter", "ours_mixed", "one_at_a_time", "transformers_serve")
    assert [ENTRANTS[name](setting).name for name in names] == list(names)


def test_a_cache_is_as_large_for_vllm_as_for_the_others(setting: Setting, tmp_path: Path) -> None:
    (program := tmp_path / "there").write_text("")
    command = list(vllm_cpu(replace(setting, vllm=program)).command)
    size = int(str(command[command.index("--kv-cache-memory-bytes") + 1]))
    layers, key_heads, head = 2, 2, 32 // 4
    assert size == 16_384 * 2 * layers * key_heads * head * 4
