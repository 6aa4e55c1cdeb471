"""How `vllm serve` is started."""

from dataclasses import replace
from pathlib import Path

from serving.vllm_engine.flags import command, environment
from tasks.contract.podlog import EVENT_NONCE
from tasks.contract.programs.serving import AdapterSource, ServerConfig, VllmConfig

HERE = ServerConfig(weights_dir=Path("/weights"), served_model_name="phi-4", max_concurrency=256)


def flags_of(config: ServerConfig, *, max_lora_rank: int = 16) -> dict[str, str | None]:
    """The flags by name, with their values."""
    arguments = command(config, port=4000, max_lora_rank=max_lora_rank)
    assert arguments[:3] == ["vllm", "serve", "/weights"]
    told: dict[str, str | None] = {}
    for at, each in enumerate(arguments[3:], start=3):
        if each.startswith("--"):
            following = arguments[at + 1 : at + 2]
            has_value = following and not following[0].startswith("--")
            told[each] = following[0] if has_value else None
    return told


def test_it_listens_on_loopback_and_says_nothing_of_each_request() -> None:
    flags = flags_of(HERE)
    assert (flags["--host"], flags["--port"]) == ("127.0.0.1", "4000")
    assert "--disable-uvicorn-access-log" in flags


def test_the_context_is_what_fits_unless_it_is_set() -> None:
    assert flags_of(HERE)["--max-model-len"] == "auto"
    assert flags_of(replace(HERE, max_context_tokens=4096))["--max-model-len"] == "4096"


def test_the_pods_gpus_hold_the_model_together() -> None:
    assert "--tensor-parallel-size" not in flags_of(HERE)
    four = replace(HERE, vllm=VllmConfig(tensor_parallel=4))
    assert flags_of(four)["--tensor-parallel-size"] == "4"


def test_there_is_room_for_the_adapters_of_the_beginning_and_those_that_come() -> None:
    sources = tuple(AdapterSource(f"a{number}", Path()) for number in range(3))
    flags = flags_of(replace(HERE, adapters=sources, max_loaded_adapters=20), max_lora_rank=32)
    assert (flags["--max-loras"], flags["--max-lora-rank"]) == ("4", "32")
    assert flags["--max-cpu-loras"] == "23"


def test_a_server_without_adapters_gives_no_memory_for_them() -> None:
    flags = flags_of(replace(HERE, vllm=VllmConfig(max_loras=0)))
    assert not [flag for flag in flags if "lora" in flag]


def test_flags_that_are_asked_for_go_before_those_that_follow() -> None:
    asked = {"max-model-len": "8192", "enforce-eager": None}
    flags = flags_of(replace(HERE, vllm=VllmConfig(flags=asked)))
    assert flags["--max-model-len"] == "8192"
    assert flags["--enforce-eager"] is None


def test_its_key_is_in_its_environment_alone_and_our_events_nonce_is_not() -> None:
    told = environment({"PATH": "/bin", EVENT_NONCE: "n"}, key="k")
    assert (told["PATH"], told["VLLM_API_KEY"], told["HF_HUB_OFFLINE"]) == ("/bin", "k", "1")
    assert EVENT_NONCE not in told
    assert "k" not in command(HERE, port=1, max_lora_rank=8)
