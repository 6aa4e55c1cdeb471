"""What of an adapter is more than plain LoRA, and what of it vLLM has no room for. Pure.

By an adapter_config.json as by the settings that one is made from: a plan can say before the
training what a server would say after it.
"""

from collections.abc import Mapping
from typing import Any

# What keeps rows of other adapters out of an adapter's batches (PEFT mixes plain LoRA layers alone)
# or changes more than layers, and what of it says that nothing is asked for.
_BEYOND = {
    "use_dora": (None, False),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "lora_bias": (None, False),
    "use_qalora": (None, False),
    "bias": (None, "none"),
}
# That vLLM has room for (`MaxLoRARanks` of its configuration).
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
MOST_RANK = _RANKS[-1]
_PEFTS_RANK = 8


def beyond_plain(adapter: Mapping[str, Any]) -> list[str]:
    """The names of what an adapter has besides plain LoRA."""
    return [name for name, nothing in _BEYOND.items() if adapter.get(name) not in nothing]


def highest_rank(adapter: Mapping[str, Any]) -> int:
    """The rank of the layer that has the highest."""
    patterned: Mapping[str, Any] = adapter.get("rank_pattern") or {}
    ranks = (adapter.get("r") or _PEFTS_RANK, *patterned.values())
    return max(1, *(int(each) for each in ranks))


def rank_in_vllm(needed: int) -> int | None:
    """The least rank that vLLM has room for and that is enough; None = none is."""
    return next((rank for rank in _RANKS if rank >= needed), None)


def why_not_in_vllm(adapter: Mapping[str, Any], *, most_rank: int | None = None) -> str:
    """What of an adapter vLLM does not compute; empty = it computes all of it.

    most_rank: that it is told to have room for; None = as much as it can have.
    """
    if beyond := beyond_plain(adapter):
        return f"{', '.join(beyond)}, which vLLM does not compute"
    most = min(most_rank or MOST_RANK, MOST_RANK)
    if (rank := highest_rank(adapter)) > most:
        return f"the rank {rank}, and vLLM has room for {most}"
    return ""
