"""What is settled about a run before the trainer is built: how many steps, in which passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl.data_utils import pack_dataset

from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.training_config import TOKENS_PER_PASS, TOKENS_PER_PASS_ON_GPU, TrainingConfig
from tasks.tuning.pod.batches import BatchPlan, plan_batches
from tasks.tuning.pod.checkpoints import Checkpoint
from tasks.tuning.pod.memory import available_memory_gib, free_gpu_gib, read_shape, settle_batch
from tasks.tuning.pod.model import settle_device, settle_dtype
from tasks.tuning.pod.ranks import Ranks
from tasks.tuning.pod.together import passes_asked_for

CHECKPOINTS_KEPT = 2
SEED = 42


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What is settled about a run before the trainer is built.

    course: what decides where the run is after each step; checkpoints of another are not resumed.
    checkpoints_kept: the latest so many.
    device: cpu, or cuda:N, the GPU of this process.
    dtype: what matrix products are computed in.
    """

    course: Mapping[str, Any]
    checkpoints_dir: Path
    checkpoints_kept: int
    batches: BatchPlan
    device: str
    dtype: torch.dtype
    gradient_checkpointing: bool

    def smaller(self, *, may_recompute: bool) -> "RunPlan | None":
        """The same steps in passes of half the rows, or else with activations recomputed.

        None = there is nothing smaller.
        """
        rows = self.batches.rows_per_pass
        if rows > 1:
            return replace(self, batches=self.batches.with_rows(rows // 2))
        if may_recompute and not self.gradient_checkpointing:
            return replace(self, gradient_checkpointing=True)
        return None


def plan_run(
    config: TuningConfig,
    settings: TrainingConfig,
    *,
    lengths: Sequence[int],
    course: Mapping[str, Any],
    begun: Checkpoint | None,
    ranks: Ranks,
) -> RunPlan:
    """Batches that suit the rows and fit the memory.

    lengths: tokens of each row, as `packed_lengths` has them where rows are packed.
    begun: what is gone on from. Its steps learned from so many rows in that order; so do the next.

    Raises: ModelDoesNotFit, WeightsUnavailable.
    """
    device = settle_device(settings)
    on_gpu = device != "cpu"
    dtype = settle_dtype(settings.model.torch_dtype, device)
    batches = wanted_batches(settings, lengths, on_gpu=on_gpu)
    if begun:
        batches = BatchPlan(
            rows_per_step=begun.rows_per_step,
            rows_per_pass=begun.rows_alike,
            longest=batches.longest,
            rows_alike=begun.rows_alike,
        )
    batches = batches.shared_by(ranks.count)
    if asked := passes_asked_for():
        batches = batches.with_rows(asked.rows)
        if asked.recompute:
            settings = settings.recomputing()
    shape = read_shape(config.weights_dir)
    wanted = settings.tuning_shape(
        on_gpu=on_gpu,
        rows=batches.rows_per_pass,
        row_tokens=batches.longest,
        compute_bytes=4 if dtype.itemsize == 4 else 2,
    )
    free_gib = free_gpu_gib() if on_gpu else available_memory_gib(processes=ranks.beside)
    fitting = settle_batch(shape, settings, wanted, available_gib=ranks.least(free_gib))
    return RunPlan(
        course=course,
        checkpoints_dir=config.results_dir / "checkpoints",
        checkpoints_kept=settings.training.get("save_total_limit", CHECKPOINTS_KEPT),
        batches=batches.with_rows(fitting.rows),
        device=f"cuda:{ranks.place}" if on_gpu else device,
        dtype=dtype,
        gradient_checkpointing=fitting.gradient_checkpointing,
    )


def wanted_batches(settings: TrainingConfig, lengths: Sequence[int], *, on_gpu: bool) -> BatchPlan:
    """Batches that suit the rows, whatever memory there is."""
    return plan_batches(
        lengths,
        epochs=settings.training["num_train_epochs"],
        tokens_per_pass=TOKENS_PER_PASS_ON_GPU if on_gpu else TOKENS_PER_PASS,
        rows_per_pass=settings.rows_per_pass,
        passes_per_step=settings.training.get("gradient_accumulation_steps"),
    )


def packed_lengths(settings: TrainingConfig, lengths: Sequence[int]) -> list[int]:
    """Tokens of each row that is trained on: of several together where rows are packed.

    They are packed as TRL will pack them, by its own function: steps and memory follow from it.
    """
    if not settings.training.get("packing"):
        return list(lengths)
    rows = Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    if settings.training.get("shuffle_dataset"):
        rows = rows.shuffle(seed=settings.training.get("seed", SEED))
    strategy = settings.training.get("packing_strategy", "bfd")
    packed = pack_dataset(rows, settings.max_length, strategy)
    return [len(ids) for ids in packed["input_ids"]]


def note_on_packing(
    settings: TrainingConfig, lengths: Sequence[int], packed: Sequence[int], plan: RunPlan
) -> list[str]:
    """What is to be told of rows that are packed; nothing where none are."""
    if not settings.training.get("packing"):
        return []
    alone = wanted_batches(settings, lengths, on_gpu=plan.device != "cpu")
    steps, instead = (
        steps_of_run(settings, rows=len(rows), rows_per_step=batches.rows_per_step)
        for rows, batches in ((packed, plan.batches), (lengths, alone))
    )
    fewer = f"{steps} steps instead of {instead}" if steps != instead else f"{steps} steps"
    return [f"{len(lengths)} rows in {len(packed)} packed rows: {fewer}"]


def steps_of_run(settings: TrainingConfig, *, rows: int, rows_per_step: int) -> int:
    """How many steps the run has, whichever of them are done."""
    asked: int = settings.training.get("max_steps", -1)
    epochs: float = settings.training["num_train_epochs"]
    return asked if asked > 0 else ceil(rows / rows_per_step * epochs)
