"""How long a tuning run takes: operations over the processor's sustained speed."""

from tasks.skus import Sku

# Frozen weights: 2 operations a parameter and token forward, 2 backward for the input's gradient;
# none for the weights' gradient. Recomputing is another forward pass.
_OPERATIONS_PER_PARAMETER, _RECOMPUTING = 4, 2
# NVIDIA's data sheets: dense 16-bit products, 10^12 operations a second. H100: of the NVL card that
# Azure's NC machines have; its SXM sibling does 989.
_DENSE_TFLOPS = {
    "V100": 112,
    "T4": 65,
    "A10": 125,
    "A10G": 70,
    "L4": 121,
    "A100": 312,
    "H100": 835,
    "H200": 989,
}
# What of that a trainer of short rows reaches, without and with weights that are spread out from 4
# or 8 bits for each product. Not measured here (no GPU): right within a factor of two.
_REACHED, _REACHED_QUANTIZED = 0.3, 0.2


def tuning_seconds(
    *,
    parameters: int,
    tokens: int,
    operations_per_s: float,
    gradient_checkpointing: bool = False,
) -> float:
    """Time to train on a number of tokens, from the machine's sustained speed."""
    each = _OPERATIONS_PER_PARAMETER + (_RECOMPUTING if gradient_checkpointing else 0)
    return each * parameters * tokens / operations_per_s


def cpu_operations_per_s(cores: int) -> float:
    """Sustained speed of QLoRA on a CPU: 43 GFLOP/s a core (160 tokens/s, 135M model, 2 cores)."""
    return 43e9 * cores


def gpu_operations_per_s(sku: Sku, *, quantized: bool) -> float | None:
    """Sustained speed of one GPU of the machine; None = not known.

    One: a model that is spread over several is worked on by one after the other.
    """
    dense = _DENSE_TFLOPS.get(sku.gpu)
    if dense is None:
        return None
    # Azure sells parts of an A10: a sixth to a half of one.
    share = min(1.0, sku.gpu_memory_gib / 24) if sku.gpu == "A10" else 1.0
    return dense * 1e12 * share * (_REACHED_QUANTIZED if quantized else _REACHED)
