"""Whether a run fits, before anything large is loaded."""

import json
import logging
from dataclasses import replace
from math import prod
from pathlib import Path

import psutil

from tasks.contract.errors import ModelDoesNotFit, WeightsUnavailable
from tasks.contract.shapes import ModelShape, TuningShape
from tasks.contract.training_config import TrainingConfig
from tasks.estimate import GIB, batch_that_fits, tuning_memory_gib

log = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
# Each name that some architecture gives to the same number.
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_INTERMEDIATE = ("intermediate_size", "n_inner", "ffn_dim")
_HEADS = ("num_attention_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", *_HEADS)


def read_shape(weights_dir: Path) -> ModelShape:
    """The numbers that memory follows from, out of config.json and the weights' headers.

    Raises: WeightsUnavailable: no config.json or safetensors, or unreadable ones.
    """
    try:
        config = json.loads((weights_dir / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        hidden, heads = _first(config, _HIDDEN), _first(config, _HEADS)
        head_width = config.get("head_dim") or hidden // heads
        return ModelShape(
            parameters=sum(_parameters(file) for file in weights_dir.glob("*.safetensors")),
            layers=_first(config, _LAYERS),
            hidden=hidden,
            intermediate=_first(config, _INTERMEDIATE, default=4 * hidden),
            vocabulary=config["vocab_size"],
            heads=heads,
            kv_hidden=_first(config, _KV_HEADS) * head_width,
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsUnavailable(
            f"the model in {weights_dir} was to be tuned",
            f"its config.json or safetensors cannot be read ({type(error).__name__}: {error})",
            "fetch the weights again",
        ) from error


def settle_batch(
    shape: ModelShape, config: TrainingConfig, wanted: TuningShape, *, available_gib: float
) -> TuningShape:
    """`wanted` with rows and checkpointing that fit; what the user has set stays as it is.

    Raises: ModelDoesNotFit: with the numbers, and what to do.
    """
    found = batch_that_fits(
        shape,
        wanted,
        available_gib=available_gib,
        fixed_rows=config.rows_per_pass is not None,
        checkpointing=config.gradient_checkpointing,
    )
    if found is None:
        raise _does_not_fit(shape, config, wanted, available_gib=available_gib)
    if found != replace(wanted, gradient_checkpointing=False):
        log.info(
            "batch made to fit rows=%d of=%d gradient_checkpointing=%s needed_gib=%.1f "
            "available_gib=%.1f",
            found.rows,
            wanted.rows,
            found.gradient_checkpointing,
            tuning_memory_gib(shape, found),
            available_gib,
        )
    return found


def _does_not_fit(
    shape: ModelShape, config: TrainingConfig, wanted: TuningShape, *, available_gib: float
) -> ModelDoesNotFit:
    least = replace(
        wanted,
        rows=config.rows_per_pass or 1,
        gradient_checkpointing=config.gradient_checkpointing is not False,
    )
    weights = "quantised" if config.is_quantized else "full"
    return ModelDoesNotFit(
        f"tuning {shape.parameters / 1000000000.0:.2f}B parameters with {weights} weights "
        f"and {least.tokens} tokens a pass needs about "
        f"{tuning_memory_gib(shape, least):.1f} GiB",
        f"{available_gib:.1f} GiB are available",
        f"{_advice(config)}",
    )


def available_memory_gib(*, use_gpu: bool) -> float:
    """Free memory of all GPUs, or of this container: what is free and what its limit leaves.

    On a CPU this process's own counts as free, since the estimate begins with an empty machine.
    """
    if use_gpu:
        import torch

        free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
        return sum(free) / GIB
    held = psutil.Process().memory_info()
    own = held.rss - held.shared
    return (min(float(psutil.virtual_memory().available), _left_by_cgroup()) + own) / GIB


def _advice(config: TrainingConfig) -> str:
    steps = [] if config.is_quantized else ["use method qlora"]
    if config.gradient_checkpointing is False:
        steps.append("let gradient_checkpointing be")
    return ", ".join(
        [*steps, "lower max_length or per_device_train_batch_size, or take a larger machine"]
    )


def _left_by_cgroup() -> float:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
    return float("inf") if limit == "max" else float(int(limit) - used)


def _first(
    config: dict[str, int | None], names: tuple[str, ...], *, default: int | None = None
) -> int:
    found = next((value for name in names if (value := config.get(name))), default)
    if found is None:
        raise KeyError(names[0])
    return found


def _parameters(file: Path) -> int:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
