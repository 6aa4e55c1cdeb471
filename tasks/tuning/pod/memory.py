"""Whether a run fits, before anything large is loaded."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import psutil

from serving.model.free_memory import free_memory_bytes
from tasks.contract.errors import ModelDoesNotFit, WeightsUnavailable
from tasks.contract.model_config import header_bytes, read_header, shape_of
from tasks.contract.shapes import ModelShape, TuningShape
from tasks.contract.training_config import TrainingConfig
from tasks.estimate import GIB, batch_that_fits, tuning_memory_gib

log = logging.getLogger(__name__)


def read_shape(weights_dir: Path) -> ModelShape:
    """The numbers that memory follows from, out of config.json and the weights' headers.

    Raises: WeightsUnavailable: no config.json or safetensors, or unreadable ones.
    """
    try:
        config = json.loads((weights_dir / "config.json").read_text(encoding="utf-8"))
        tensors = [each for file in weights_dir.glob("*.safetensors") for each in _tensors(file)]
        return shape_of(config, tensors)
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
    found = _fitting(shape, config, wanted, available_gib=available_gib)
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


def _fitting(
    shape: ModelShape, config: TrainingConfig, wanted: TuningShape, *, available_gib: float
) -> TuningShape | None:
    return batch_that_fits(
        shape,
        wanted,
        available_gib=available_gib,
        fixed_rows=config.rows_per_pass is not None,
        checkpointing=config.gradient_checkpointing,
    )


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


def free_gpu_gib() -> float:
    """Free memory of the GPU that this process computes on."""
    import torch

    return torch.cuda.mem_get_info()[0] / GIB


def available_memory_gib(*, processes: int = 1) -> float:
    """A process's share of this container's free memory: what is free and what its limit leaves.

    This process's own counts as free, since the estimate begins with an empty machine.
    """
    held = psutil.Process().memory_info()
    own = held.rss - held.shared
    return free_memory_bytes() / processes / GIB + own / GIB


def _advice(config: TrainingConfig) -> str:
    steps = [] if config.is_quantized else ["use method qlora"]
    if config.gradient_checkpointing is False:
        steps.append("let gradient_checkpointing be")
    return ", ".join(
        [*steps, "lower max_length or per_device_train_batch_size, or take a larger machine"]
    )


def _tensors(file: Path) -> list[tuple[str, int]]:
    with file.open("rb") as opened:
        beginning = opened.read(8)
        return read_header(beginning + opened.read(header_bytes(beginning) - 8))
