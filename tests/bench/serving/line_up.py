"""Who takes part, set up as its own documentation says is best, and who is left out and why."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from tests.bench.serving import llama_cpp
from tests.bench.serving.adapters import RANK, write_adapter
from tests.bench.serving.gguf_file import OtherModel, write_gguf
from tests.bench.serving.servers import Server, at_least, cores
from tests.cluster.ports import free_port

# What peers that ask for it may keep in their caches: 64 answers to short prompts, twice over.
CACHE_TOKENS = 16_384
_MOST_CLIENTS = 64
_CONTEXT_TOKENS = 4096
_BLOCK_TOKENS = 32
_BASE = "base"


class LeftOut(Exception):
    """A peer that cannot take part; says why, and how to have it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all are given. dtype: that all compute in. work: a folder for what is made for them."""

    weights: Path
    work: Path
    dtype: str
    adapters: int
    vllm: Path
    llama_cpp: Path


def ours(setting: Setting) -> Server:
    """Our server as it is shipped, the base model alone."""
    return _ours(setting, "ours", adapters=0, asks=[_BASE], settings="as shipped, base model")


def ours_one_adapter(setting: Setting) -> Server:
    """Our server with one adapter, which all requests ask for."""
    told = f"as shipped, all ask for one adapter of rank {RANK}"
    return _ours(setting, "ours_one_adapter", adapters=1, asks=[_name(1)], settings=told)


def ours_mixed(setting: Setting) -> Server:
    """Our server with several adapters; requests ask for the base and for each of them in turn."""
    names = [_name(number) for number in range(1, setting.adapters + 1)]
    told = f"as shipped, asks in turn for the base and {setting.adapters} adapters of rank {RANK}"
    return _ours(
        setting, "ours_mixed", adapters=setting.adapters, asks=[_BASE, *names], settings=told
    )


def _ours(
    setting: Setting, name: str, *, adapters: int, asks: Sequence[str], settings: str
) -> Server:
    port = free_port()
    made = [
        {"name": _name(number), "path": str(_adapter(setting, number))}
        for number in range(1, adapters + 1)
    ]
    config = setting.work / f"{name}.json"
    fields = {"weights_dir": str(setting.weights), "served_model_name": _BASE, "port": port}
    config.write_text(json.dumps(fields | {"adapters": made}))
    return Server(
        name=name,
        command=[sys.executable, "-m", "serving", config],
        port=port,
        models=asks,
        length=at_least,
        version=f"kaitoflow {version('kaitoflow')}",
        settings=settings,
        environment={"KAITOFLOW_LOG_LEVEL": "WARNING"},
    )


def _name(number: int) -> str:
    return f"adapter-{number}"


def _adapter(setting: Setting, number: int) -> Path:
    folder = setting.work / _name(number)
    return folder if folder.exists() else write_adapter(folder, setting.weights, seed=number)


def one_at_a_time(setting: Setting) -> Server:
    """`generate` behind a lock, as KAITO's transformers runtime."""
    port = free_port()
    program = "tests.bench.serving.one_at_a_time"
    return Server(
        name="one_at_a_time",
        command=[sys.executable, "-m", program, setting.weights, str(port)],
        port=port,
        models=[_BASE],
        length=at_least,
        version=f"transformers {version('transformers')}",
        settings="FastAPI and generate, a request at a time, as KAITO's transformers runtime",
    )


def transformers_serve(setting: Setting) -> Server:
    """`transformers serve` with continuous batching.

    By itself its cache takes six tenths of the free memory (`resolve_max_memory_percent`), in pages
    of 256 tokens, of which a short answer leaves most unused. 512 tokens a batch bound how long a
    prompt holds running streams up. Attention is paged sdpa: flash attention and CUDA graphs, which
    it would choose, need a GPU.
    """
    port = free_port()
    blocks = CACHE_TOKENS // _BLOCK_TOKENS
    flags = {
        "--device": "cpu",
        "--dtype": setting.dtype,
        "--attn-implementation": "sdpa",
        "--cb-block-size": str(_BLOCK_TOKENS),
        "--cb-num-blocks": str(blocks),
        "--cb-max-batch-tokens": "512",
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    program = Path(sys.executable).parent / "transformers"
    if not program.exists():
        raise LeftOut(f"{program} is not there: run make setup")
    return Server(
        name="transformers_serve",
        command=[program, "serve", setting.weights, "--continuous-batching", *_pairs(flags)],
        port=port,
        models=[str(setting.weights)],
        length=_without_end,
        version=f"transformers {version('transformers')}",
        settings=f"continuous batching, paged sdpa, {blocks} blocks of {_BLOCK_TOKENS} tokens,"
        " 512 tokens a batch",
        environment={"HF_HUB_OFFLINE": "1"},
    )


def _without_end(_: int) -> Mapping[str, Any]:
    """It knows no least length, and takes a configuration whose end is no token."""
    return {"generation_config": json.dumps({"eos_token_id": -1})}


def llama_cpp_server(setting: Setting) -> Server:
    """llama.cpp's server: as many rows as there are clients, sharing one cache."""
    try:
        found = llama_cpp.fetch(setting.llama_cpp)
        file = write_gguf(setting.weights, setting.work / "model.gguf")
    except (llama_cpp.NotHad, OtherModel) as error:
        raise LeftOut(
            f"{error}; or name a folder that has xllamacpp (pip install --target): --llama-cpp"
        ) from error
    port = free_port()
    program = "tests.bench.serving.llama_cpp"
    numbers = [str(each) for each in (port, _MOST_CLIENTS, CACHE_TOKENS)]
    return Server(
        name="llama_cpp",
        command=[sys.executable, "-m", program, file, *numbers],
        port=port,
        models=[_BASE],
        length=_ignoring_end,
        version=found,
        settings=f"bfloat16 GGUF, {_MOST_CLIENTS} rows that share {CACHE_TOKENS} tokens, all cores,"
        " AVX2 (its wheel has no more)",
        environment={"PYTHONPATH": str(setting.llama_cpp)},
    )


def _ignoring_end(_: int) -> Mapping[str, Any]:
    return {"ignore_eos": True, "stream_options": {"include_usage": True}}


def vllm_cpu(setting: Setting) -> Server:
    """vLLM's CPU build: all cores compute, since it would keep one of two for its scheduler."""
    if not setting.vllm.exists():
        raise LeftOut(
            f"{setting.vllm} is not there: make test-vllm installs it, or name the program: --vllm"
        )
    port = free_port()
    flags = {
        "--served-model-name": _BASE,
        "--dtype": setting.dtype,
        "--max-model-len": str(_CONTEXT_TOKENS),
        "--max-num-seqs": str(_MOST_CLIENTS),
        "--kv-cache-memory-bytes": str(CACHE_TOKENS * _bytes_per_token(setting)),
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    return Server(
        name="vllm_cpu",
        command=[setting.vllm, "serve", setting.weights, "--enforce-eager", *_pairs(flags)],
        port=port,
        models=[_BASE],
        length=at_least,
        version=_vllm_version(setting.vllm),
        settings=f"eager, {CACHE_TOKENS} tokens of cache, all cores compute",
        environment={
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores())),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        },
    )


def _bytes_per_token(setting: Setting) -> int:
    """Of a cache: keys and values of all layers."""
    config = json.loads((setting.weights / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    numbers = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    return int(numbers) * (2 if setting.dtype == "bfloat16" else 4)


def _vllm_version(program: Path) -> str:
    folders = [str(each) for each in program.parents[1].glob("lib/python*/site-packages")]
    found = next(iter(distributions(name="vllm", path=folders)), None)
    return f"vllm {found.version if found else 'of an unknown version'}"


def _pairs(flags: Mapping[str, str]) -> list[str]:
    return [word for pair in flags.items() for word in pair]


ENTRANTS: Mapping[str, Callable[[Setting], Server]] = {
    "ours": ours,
    "ours_one_adapter": ours_one_adapter,
    "ours_mixed": ours_mixed,
    "one_at_a_time": one_at_a_time,
    "transformers_serve": transformers_serve,
    "llama_cpp": llama_cpp_server,
    "vllm_cpu": vllm_cpu,
}
