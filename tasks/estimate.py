"""How much memory, disk and time a run takes, from numbers alone. Pure.

Formulas are sums of what is known to be held at once; constants carry their source. They answer
"does it fit, and how long", not "how fast exactly".
"""

from dataclasses import dataclass

from tasks.presets import ModelShape

GIB = 2**30
# 4 bits a weight, an 8-bit scale for each 64, a 32-bit one for each 256 of those (QLoRA, 3).
_NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
_BF16_BYTES = 2
# Adapter weight, its gradient and AdamW's two moments, each in 32 bit.
_TRAINABLE_BYTES = 16
# Interpreter, torch, transformers and bitsandbytes, before a model is loaded (measured on CPU).
_RUNTIME_GIB = 1.1
# Bytes kept for the backward pass, a token and layer, in units of hidden and intermediate width.
_ACTIVATION_BYTES = 2
_HIDDEN_KEPT, _INTERMEDIATE_KEPT = 14, 4
# Forward and backward through frozen weights: 2 + 2 operations a parameter and token.
_OPERATIONS_PER_PARAMETER = 4


@dataclass(frozen=True, kw_only=True)
class TuningShape:
    """The settings of a tuning run that memory follows from."""

    quantized: bool
    lora_rank: int = 8
    tokens_per_step: int = 2048
    gradient_checkpointing: bool = False


def lora_parameters(shape: ModelShape, *, rank: int) -> int:
    """Trainable parameters of LoRA on every linear layer of each block (square attention)."""
    attention = 4 * 2 * shape.hidden
    feed_forward = 3 * (shape.hidden + shape.intermediate)
    return rank * shape.layers * (attention + feed_forward)


def tuning_memory_gib(shape: ModelShape, tuning: TuningShape) -> float:
    """Peak memory of a tuning run in GiB: weights, adapter, optimiser, activations, logits."""
    embedding = shape.vocabulary * shape.hidden
    linear = max(shape.parameters - embedding, 0)
    per_weight = _NF4_BYTES if tuning.quantized else _BF16_BYTES
    weights = embedding * _BF16_BYTES + linear * per_weight
    adapter = lora_parameters(shape, rank=tuning.lora_rank) * _TRAINABLE_BYTES
    kept = shape.hidden * _HIDDEN_KEPT + shape.intermediate * _INTERMEDIATE_KEPT
    layers_kept = 1 if tuning.gradient_checkpointing else shape.layers
    activations = tuning.tokens_per_step * kept * layers_kept * _ACTIVATION_BYTES
    # Logits once in 16 bit, once in 32 for the loss, and their gradient.
    logits = tuning.tokens_per_step * shape.vocabulary * (2 + 4 + 4)
    return _RUNTIME_GIB + (weights + adapter + activations + logits) / GIB


def serving_memory_gib(
    *, weights_gib: float, kv_bytes_per_token: int, context_tokens: int, sequences: int = 1
) -> float:
    """Memory of a server in GiB: weights and the KV cache of `sequences` full contexts."""
    cache = kv_bytes_per_token * context_tokens * sequences
    return _RUNTIME_GIB + weights_gib * 1.02 + cache / GIB


def tuning_seconds(*, parameters: int, tokens: int, operations_per_s: float) -> float:
    """Time to train on a number of tokens, from the machine's sustained speed."""
    return _OPERATIONS_PER_PARAMETER * parameters * tokens / operations_per_s


def cpu_operations_per_s(cores: int) -> float:
    """Sustained speed of QLoRA on a CPU: 43 GFLOP/s a core (160 tokens/s, 135M model, 2 cores)."""
    return 43e9 * cores


def duration(seconds: float) -> str:
    """A duration as a person would say it: `45 s`, `3 min`, `2.5 h`, `4 days`."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
