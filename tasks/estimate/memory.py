"""The peak memory of a tuning run: what its forward and backward passes hold at once.

Counted for a decoder of the Llama kind: RMSNorm, rotary attention with grouped keys, a gated
feed-forward network. Which tensors are kept for the backward pass was read off autograd's saved
tensors; that the sum is the process's peak is measured (tests/estimate/measured.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tasks.contract.shapes import ModelShape, TuningShape

GIB = 2**30
_BF16, _FLOAT32 = 2, 4
# 4 bits a weight, an 8-bit scale for each 64, a 32-bit one for each 256 of those (QLoRA,
# arXiv 2305.14314, section 3); 8 bits a weight and a 32-bit scale a row, too little to count.
_QUANTIZED_BYTES = {4: (4 + 8 / 64 + 32 / (64 * 256)) / 8, 8: 1.0}
# Adapters and their gradients are 32 bit; beside them what the optimiser keeps for each weight.
_ADAPTER_BYTES = 2 * _FLOAT32
_OPTIMIZER_BYTES = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit"), 2),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "adagrad", "rmsprop"), 4),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit"), 1),
    **dict.fromkeys(("adafactor", "sgd"), 0),
}
_ADAMW_BYTES = 8
# Interpreter, torch, transformers, trl and bitsandbytes, with a tiny model (measured).
_CPU_RUNTIME_GIB = 0.95
# CUDA's context and cuBLAS's workspaces; what PyTorch's allocator keeps in pieces that are too
# small, as a share of the activations. Both usual figures, not measured here.
_GPU_RUNTIME_GIB, _GPU_HOLES = 0.7, 0.1
# Of a GPU's memory this share stays free when a batch is chosen: too large a one ends the run.
GPU_SPARE = 0.05
# The C library's heap cannot reuse or give back the holes that temporary tensors leave between
# those that are kept: 1.03 GiB of them beside 1.6 GiB in use (mallinfo2, LoRA, 4 x 512 tokens).
# With recomputed activations the trainer has it give every block back (tasks/tuning/pod/heap.py).
_HEAP_HOLES = 0.6
# On a CPU the fused attention kernels lose to plain matrix products up to about this many tokens a
# row: 456 against 414 tokens/s at 128 (SmolLM2, 2 cores). These keep their weights, in 32 bit after
# the softmax, and in 16.
PLAIN_ATTENTION_UP_TO = 256
_PLAIN_ATTENTION_BYTES = _FLOAT32 + _BF16
# Positions that the answer loss scores at once: 25 MB of logits in 16 bit at a vocabulary of 49152,
# which the caches like best. They are held in 16 bit, in 32, and as their slope in 16.
LOSS_POSITIONS = 256
_LOSS_BYTES = _BF16 + _FLOAT32 + _BF16
# On GPUs trl's loss has one tile of logits of these sizes, in 16 bit (1.16).
_LOSS_TILE_TOKENS, _LOSS_TILE_VOCABULARY = 4096, 32768
# A pass of fewer tokens leaves the processor idle; more than these gain 5 % (SmolLM2, 2 cores).
_TOKENS_WORTH_A_PASS = 512


@dataclass(frozen=True, kw_only=True)
class TuningMemory:
    """Where the peak goes, in GiB.

    runtime: libraries, before a model is loaded. adapter: with gradients and optimiser.
    activations: kept for the backward pass, and the holes beside them. loss: logits and temporary
    weights.
    """

    runtime: float
    weights: float
    adapter: float
    activations: float
    loss: float

    @property
    def total_gib(self) -> float:
        """The peak."""
        return self.runtime + self.weights + self.adapter + self.activations + self.loss


def tuning_memory_gib(shape: ModelShape, tuning: TuningShape) -> float:
    """Peak memory of a tuning run: of its process on a CPU, of its GPU otherwise."""
    return tuning_memory(shape, tuning).total_gib


def tuning_memory(shape: ModelShape, tuning: TuningShape) -> TuningMemory:
    """The same, by what it is used for."""
    trainable = lora_parameters(shape, rank=tuning.lora_rank, target_modules=tuning.target_modules)
    per_weight = _ADAPTER_BYTES + _OPTIMIZER_BYTES.get(tuning.optimizer, _ADAMW_BYTES)
    # Products are in 16 bit: autocast keeps a copy of the adapter in it for the pass.
    copies = tuning.compute_bytes if tuning.compute_bytes == _BF16 else 0
    return TuningMemory(
        runtime=_GPU_RUNTIME_GIB if tuning.on_gpu else _CPU_RUNTIME_GIB,
        weights=_weight_bytes(shape, tuning) / GIB,
        adapter=trainable * (per_weight + copies) / GIB,
        activations=_activation_bytes(shape, tuning) / GIB,
        loss=_loss_bytes(shape, tuning) / GIB,
    )


def lora_parameters(
    shape: ModelShape, *, rank: int, target_modules: tuple[str, ...] | None = None
) -> int:
    """Trainable parameters of LoRA: rank x (in + out) of each layer that gets an adapter."""
    sides = (inner + outer for inner, outer in _adapted(shape, target_modules))
    return rank * shape.layers * sum(sides)


def batch_that_fits(
    shape: ModelShape,
    tuning: TuningShape,
    *,
    available_gib: float,
    fixed_rows: bool = False,
    checkpointing: bool | None = None,
) -> TuningShape | None:
    """The settings with rows and checkpointing such that the run fits; None = nothing does.

    Activations are kept as long as a pass is worth its while, since to recompute them costs half
    as much time again; then they are recomputed, with as many rows as fit.

    Args:
        tuning: rows is the most that are wanted.
        fixed_rows: the user has named the batch size. checkpointing: as the user says; None = free.
    """
    if tuning.on_gpu:
        available_gib *= 1 - GPU_SPARE
    for candidate in _candidates(tuning, fixed_rows=fixed_rows, checkpointing=checkpointing):
        if tuning_memory_gib(shape, candidate) <= available_gib:
            return candidate
    return None


def _candidates(
    tuning: TuningShape, *, fixed_rows: bool, checkpointing: bool | None
) -> Iterator[TuningShape]:
    all_rows = [tuning.rows] if fixed_rows else list(range(tuning.rows, 0, -1))
    worth = [n for n in all_rows if n * tuning.row_tokens >= _TOKENS_WORTH_A_PASS]
    if checkpointing is not True:
        keeping = all_rows if checkpointing is False else worth or all_rows[:1]
        yield from (replace(tuning, rows=n, gradient_checkpointing=False) for n in keeping)
    if checkpointing is not False:
        yield from (replace(tuning, rows=n, gradient_checkpointing=True) for n in all_rows)


def _kv_hidden(shape: ModelShape) -> int:
    return shape.kv_hidden or shape.hidden


def _linears(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Width in and out of a block's linear layers, by the names that most architectures use."""
    hidden, kv, wide = shape.hidden, _kv_hidden(shape), shape.intermediate
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, wide),
        "up_proj": (hidden, wide),
        "down_proj": (wide, hidden),
    }


def _adapted(shape: ModelShape, target_modules: tuple[str, ...] | None) -> list[tuple[int, int]]:
    """Width in and out of the layers of a block that get an adapter."""
    linears, kv = _linears(shape), _kv_hidden(shape)
    if target_modules is None:
        return list(linears.values())
    fused = {
        "qkv_proj": (shape.hidden, shape.hidden + 2 * kv),
        "gate_up_proj": (shape.hidden, 2 * shape.intermediate),
    }
    # A name that is not known here: the widest there is.
    widest = (shape.intermediate, shape.hidden)
    return [(linears | fused).get(name, widest) for name in target_modules]


def _weight_bytes(shape: ModelShape, tuning: TuningShape) -> float:
    linear = shape.linear_parameters
    as_published = shape.parameters - linear
    plain = max(tuning.compute_bytes, _BF16)
    if tuning.weight_bits not in _QUANTIZED_BYTES:
        held: float = shape.parameters * tuning.weight_bits / 8
    else:
        # Embeddings, output head and a mixture's experts stay as they are.
        held = as_published * plain + linear * _QUANTIZED_BYTES[tuning.weight_bits]
    if tuning.on_gpu:
        return held
    # On a CPU the file stays mapped, and weights that are used as they lie there are its pages.
    file = shape.parameters * _BF16
    if tuning.weight_bits == 16:
        return file
    return file + held - (as_published * plain if plain == _BF16 else 0)


def _activation_bytes(shape: ModelShape, tuning: TuningShape) -> float:
    layer = _kept_bytes_per_token(shape, tuning)
    if tuning.gradient_checkpointing:
        # The input of each block, and the one block that is being recomputed.
        kept = tuning.tokens * (shape.layers * shape.hidden * tuning.compute_bytes + layer)
        if tuning.on_gpu:
            kept += tuning.tokens * _repeated_bytes_per_token(shape, tuning)
        holes = kept * _GPU_HOLES if tuning.on_gpu else 0.0
    else:
        kept = tuning.tokens * shape.layers * layer
        holes = kept * (_GPU_HOLES if tuning.on_gpu else _HEAP_HOLES)
    return kept + holes


def _kept_bytes_per_token(shape: ModelShape, tuning: TuningShape) -> float:
    """Bytes that a block keeps of a token for the backward pass.

    Frozen layers need no input of theirs. Kept are: both norms' input in 32 bit; queries, keys,
    values and attention's output; gate, its activation and up; and for each adapter its layer's
    input: in 16 bit a copy each, as autocast makes one for each product, in 32 bit the input.
    """
    hidden, kv, wide = shape.hidden, _kv_hidden(shape), shape.intermediate
    size = tuning.compute_bytes
    norms = 2 * hidden * _FLOAT32
    attention = (2 * hidden + 2 * kv) * size
    if not tuning.on_gpu and tuning.row_tokens <= PLAIN_ATTENTION_UP_TO:
        attention += shape.heads * tuning.row_tokens * _PLAIN_ATTENTION_BYTES
    feed_forward = 3 * wide * size
    inputs = sum(inner for inner, _ in _adapted(shape, tuning.target_modules))
    if size == _FLOAT32:
        # Queries, keys and values share one input, gate and up another.
        inputs = min(inputs, 3 * hidden + wide)
    return norms + attention + feed_forward + inputs * size


def _repeated_bytes_per_token(shape: ModelShape, tuning: TuningShape) -> int:
    """Keys and values, made as wide as queries where a padding mask is used, and their slopes."""
    return 2 * 2 * (shape.hidden - _kv_hidden(shape)) * tuning.compute_bytes


def _loss_bytes(shape: ModelShape, tuning: TuningShape) -> float:
    # Quantised weights are spread out for a product, one layer's at a time.
    spread = 0
    if tuning.weight_bits in _QUANTIZED_BYTES:
        spread = shape.hidden * shape.intermediate * tuning.compute_bytes
    if tuning.on_gpu:
        tile = min(tuning.tokens, _LOSS_TILE_TOKENS) * min(shape.vocabulary, _LOSS_TILE_VOCABULARY)
        gradient = tuning.tokens * shape.hidden * _FLOAT32
        return tile * _BF16 + gradient + spread
    return LOSS_POSITIONS * shape.vocabulary * _LOSS_BYTES + spread
