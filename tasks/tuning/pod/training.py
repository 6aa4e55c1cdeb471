"""The training itself: from where it was left, in smaller passes where one has not fitted."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from serving.model.loading import expect_plain_weights
from tasks.contract.podlog import Stopped
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.tuning.pod.away import fetch
from tasks.tuning.pod.batches import BatchPlan
from tasks.tuning.pod.checkpoints import SEAL, Checkpoint, find_checkpoint
from tasks.tuning.pod.course import course_of
from tasks.tuning.pod.heap import give_back_freed_blocks, give_back_unused
from tasks.tuning.pod.model import load_tuning_model, lora_settings
from tasks.tuning.pod.planning import (
    RunPlan,
    note_on_packing,
    packed_lengths,
    plan_run,
    steps_of_run,
)
from tasks.tuning.pod.progress import tell_phase
from tasks.tuning.pod.ranks import Ranks
from tasks.tuning.pod.rows import Rows
from tasks.tuning.pod.start import note_on_start, put_weights
from tasks.tuning.pod.together import ask_for_passes
from tasks.tuning.pod.trainer import AnswerTrainer, sft_arguments, without_effect
from tasks.tuning.pod.weights import expect_quantized

log = logging.getLogger(__name__)


def trained(
    config: TuningConfig, settings: TrainingConfig, *, rows: Rows, ranks: Ranks
) -> AnswerTrainer:
    """The trainer after its last step; in smaller passes where one has not fitted after all.

    It goes on from the last checkpoint. In how many passes a step is taken changes nothing of what
    it learns.
    """
    plan: RunPlan | None = None
    while True:
        trainer, checkpoint = _build(config, settings, rows=rows, plan=plan, ranks=ranks)
        tell_phase("train")
        try:
            _train(trainer, checkpoint)
        except torch.OutOfMemoryError:
            plan = trainer.plan.smaller(may_recompute=settings.gradient_checkpointing is not False)
            if plan is None:
                raise
            _tell_smaller(trainer.plan, plan)
            if ranks.count > 1:  # the others wait for this pass: all have to begin anew
                ask_for_passes(plan.batches.rows_per_pass, recompute=plan.gradient_checkpointing)
        else:
            return trainer
        # Past the except clause: until here the error held every tensor of the pass.
        del trainer
        give_back_unused()
        tell_phase("load")


def _train(trainer: AnswerTrainer, checkpoint: Checkpoint | None) -> None:
    trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    if trainer.saving.stop_requested:
        raise Stopped
    trainer.guard.expect_learned(
        [line["loss"] for line in trainer.state.log_history if "loss" in line]
    )


def _build(
    config: TuningConfig,
    settings: TrainingConfig,
    *,
    rows: Rows,
    plan: RunPlan | None,
    ranks: Ranks,
) -> tuple[AnswerTrainer, Checkpoint | None]:
    """The trainer, and the checkpoint that it goes on from; plan: None = it is to be made."""
    expect_plain_weights(config.weights_dir, asked=f"{config.base_model} is to be tuned")
    alone = [len(one.input_ids) for one in rows.train.examples]
    lengths = packed_lengths(settings, alone)
    course = course_of(config, settings)
    ranks.expect_alike(course)
    begun, told = _begun(config, settings, rows=len(lengths), course=course, ranks=ranks)
    plan = plan or plan_run(
        config, settings, lengths=lengths, course=course, begun=begun, ranks=ranks
    )
    if plan.gradient_checkpointing and plan.device == "cpu":
        give_back_freed_blocks()
    steps = steps_of_run(settings, rows=len(lengths), rows_per_step=plan.batches.rows_per_step)
    followed, notes = without_effect(
        settings, on_gpu=plan.device != "cpu", held_out=len(rows.held_out.examples)
    )
    args = sft_arguments(followed, plan, steps=steps)
    model = load_tuning_model(
        config.weights_dir, settings, device=plan.device, longest=plan.batches.longest
    )
    if settings.is_quantized:
        expect_quantized(model, asked=f"{config.base_model} is to be tuned by {settings.method}")
    _log_plan(plan, steps=steps, ranks=ranks)
    trainer = AnswerTrainer(
        model,
        args=args,
        plan=plan,
        train=rows.train.examples,
        held_out=rows.held_out.examples,
        tokenizer=rows.tokenizer,
        lora=lora_settings(settings, model),
        ranks=ranks,
        policy=config.policy,
        away=config.away,
    )
    put_weights(trainer.adapted, config)
    trainer.notes += [*note_on_start(config), *notes, *told, *_shared(plan.batches)]
    trainer.notes += note_on_packing(settings, alone, lengths, plan)
    if begun:
        log.info("run resumed checkpoint=%s", begun.path.name)
        trainer.notes.append(f"went on from step {begun.step} of {steps}")
    return trainer, begun


def _begun(
    config: TuningConfig,
    settings: TrainingConfig,
    *,
    rows: int,
    course: Mapping[str, Any],
    ranks: Ranks,
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that all processes go on from, and what is to be told of others.

    rows: that are trained on.
    """
    folder = config.results_dir / "checkpoints"
    fetched = ranks.from_first(lambda: fetch(folder, config.away) if config.away else [])
    checkpoint, told = ranks.from_first(
        lambda: find_checkpoint(
            folder,
            course=course,
            steps=lambda per_step: steps_of_run(settings, rows=rows, rows_per_step=per_step),
        )
    )
    if checkpoint:
        checkpoint = replace(checkpoint, path=folder / checkpoint.path.name)
        ranks.share_folder(checkpoint.path, seal=SEAL)
    return checkpoint, [*fetched, *told]


def _shared(batches: BatchPlan) -> list[str]:
    """What is to be told of how processes share a step; nothing where each has its rows."""
    idle = batches.processes - batches.rows_per_step
    if idle <= 0:
        return []
    rows = batches.rows_per_step
    return [f"{idle} of {batches.processes} GPUs had nothing to do: a step has {rows} row(s)"]


def _log_plan(plan: RunPlan, *, steps: int, ranks: Ranks) -> None:
    log.info(
        "run planned processes=%d rows_per_pass=%d passes_per_step=%d steps=%d "
        "gradient_checkpointing=%s",
        ranks.count,
        plan.batches.rows_per_pass,
        plan.batches.passes_per_step,
        steps,
        plan.gradient_checkpointing,
    )


def _tell_smaller(plan: RunPlan, smaller: RunPlan) -> None:
    log.warning(
        "out of memory, going on with smaller passes: rows_per_pass=%d instead of %d "
        "passes_per_step=%d gradient_checkpointing=%s",
        smaller.batches.rows_per_pass,
        plan.batches.rows_per_pass,
        smaller.batches.passes_per_step,
        smaller.gradient_checkpointing,
    )
