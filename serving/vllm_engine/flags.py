"""How `vllm serve` is started: its arguments and its environment. Pure."""

import json
from collections.abc import Mapping

from tasks.contract.podlog import EVENT_NONCE
from tasks.contract.programs.serving import ServerConfig

HOST = "127.0.0.1"

# In the CPU's memory beside those that the server began with, where no number is set: they come
# back from their files when they are asked.
_KEPT_ADAPTERS = 16

_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # The weights are there; nothing is fetched behind our back.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}


def command(config: ServerConfig, *, port: int, max_lora_rank: int) -> list[str]:
    """What is run; flags of the configuration go before those that follow from the rest."""
    flags = _flags(config, port=port, max_lora_rank=max_lora_rank) | config.vllm.flags
    arguments = [str(config.weights_dir)]
    for name, value in flags.items():
        arguments += [f"--{name}"] if value is None else [f"--{name}", value]
    return [*config.vllm.program, *arguments]


def _flags(config: ServerConfig, *, port: int, max_lora_rank: int) -> dict[str, str | None]:
    context = config.max_context_tokens
    flags: dict[str, str | None] = {
        "host": HOST,
        "port": str(port),
        "served-model-name": config.served_model_name,
        "disable-uvicorn-access-log": None,
        "disable-fastapi-docs": None,
        "uvicorn-log-level": "warning",
        # Every request says all of it; nothing is set where the front door does not look.
        "generation-config": "vllm",
        # By itself vLLM takes the model's whole context or does not start.
        "max-model-len": str(context) if context else "auto",
        "max-num-seqs": str(config.max_concurrency),
        # The grammars by which the front door has checked a schema.
        "structured-outputs-config": json.dumps({"backend": "guidance"}),
    }
    if config.vllm.tensor_parallel > 1:
        flags["tensor-parallel-size"] = str(config.vllm.tensor_parallel)
    if config.vllm.max_loras:
        later = config.max_loaded_adapters or _KEPT_ADAPTERS
        flags |= {
            "enable-lora": None,
            "max-loras": str(config.vllm.max_loras),
            "max-lora-rank": str(max_lora_rank),
            "max-cpu-loras": str(max(config.vllm.max_loras, len(config.adapters) + later)),
        }
    return flags


def environment(inherited: Mapping[str, str], *, key: str) -> dict[str, str]:
    """Its environment; the key is not among the arguments, which every user of a machine sees.

    What it says is no event of ours, so it is not told by what those are known.
    """
    kept = {name: value for name, value in inherited.items() if name != EVENT_NONCE}
    return kept | _ENVIRONMENT | {"VLLM_API_KEY": key}
