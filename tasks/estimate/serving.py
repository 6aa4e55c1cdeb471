"""The memory of a server, and how many nodes a model needs."""

from math import ceil

from tasks.estimate.memory import GIB
from tasks.skus import Sku

# Tokenizer, code and buffers beside the published size of the weights (KAITO's estimator).
_WEIGHTS_IN_MEMORY = 1.02
# Interpreter, torch and transformers, before a model is loaded (measured on CPU).
_RUNTIME_GIB = 1.1
# KAITO 0.12's node estimator, for vLLM with tensor and pipeline parallelism: the share of a GPU
# that is used, what a GPU holds beside weights and cache, and room for what is uneven.
_USED_SHARE, _PER_GPU_GIB, _UNEVEN = 0.84, 2.3, 1.05


def serving_memory_gib(
    *,
    weights_gib: float,
    kv_bytes_per_token: int,
    context_tokens: int,
    sequences: int = 1,
    adapters_gib: float = 0.0,
) -> float:
    """Memory of a server: weights, adapters and the KV cache of `sequences` full contexts."""
    cache = kv_bytes_per_token * context_tokens * sequences
    return _RUNTIME_GIB + weights_gib * _WEIGHTS_IN_MEMORY + adapters_gib + cache / GIB


def nodes_for_serving(
    sku: Sku,
    *,
    weights_gib: float,
    kv_bytes_per_token: int,
    context_tokens: int = 2048,
    adapters_gib: float = 0.0,
) -> int | None:
    """Nodes of that kind that hold the model, by KAITO's formula; None = no number of them does.

    A GPU that is wholly taken by its share of the cache holds no weights, however many there are.
    Beyond KAITO's: adapters count as weights, and a fraction that comes out whole is not rounded
    up once more. context_tokens: of all sequences; KAITO takes 2048 where max-model-len is not set.
    """
    cache_gib = context_tokens * kv_bytes_per_token / sku.gpus / GIB
    room_gib = sku.gpu_memory_gib * _USED_SHARE - _PER_GPU_GIB - cache_gib
    if room_gib <= 0:
        return None
    held_gib = weights_gib * _WEIGHTS_IN_MEMORY + adapters_gib
    return ceil(ceil(held_gib * _UNEVEN / room_gib) / sku.gpus)
