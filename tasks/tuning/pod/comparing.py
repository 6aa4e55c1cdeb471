"""The adapter beside the base model, once it is saved: no fault of this costs the adapter."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tasks.contract.programs.tuning import AS_SERVED, TuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.tuning.pod.heap import give_back_unused
from tasks.tuning.pod.heldout import Computing, compare, lacks_memory_to_serve, served_model
from tasks.tuning.pod.rows import Rows
from tasks.tuning.pod.seen import keep_as_trained
from tasks.tuning.pod.trainer import AnswerTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Served:
    """The adapter on the base model, for users or as near to it as the memory allows.

    base: what the base's weights are, in words. computing: a context in which it computes.
    """

    model: Any
    base: str
    dtype: torch.dtype
    computing: Computing = nullcontext


def compared(
    config: TuningConfig, settings: TrainingConfig, rows: Rows, *, tuned: list[AnswerTrainer]
) -> dict[str, Any]:
    """The metrics `held_out` and, where the comparison failed, `held_out_missing`: why.

    Leaves beside the adapter what the model answers, also where no row is held out.

    Args: tuned: the trainer alone, which is taken out of it where its memory is needed.
    """
    examples, held_out = rows.held_out.examples, None
    try:
        served = _served(config, settings, tuned)
        if examples:
            held_out = compare(
                served.model,
                rows.tokenizer,
                rows=rows.held_out_rows,
                examples=examples,
                learned=rows.train.examples,
                base=served.base,
                computing=served.computing,
            )
    except Exception as error:  # whatever it is, the run has made what it was started for
        log.warning("adapter not compared with the base model", exc_info=True)
        why = (str(error).splitlines() or [""])[0][:200]
        missing = f"{type(error).__name__}: {why}" if examples else None
        return {"held_out": None, "held_out_missing": missing}
    if served.base == AS_SERVED:
        _leave_as_trained(config, served, rows.tokenizer)
    return {"held_out": held_out, "held_out_missing": None}


def _served(config: TuningConfig, settings: TrainingConfig, tuned: list[AnswerTrainer]) -> _Served:
    device = tuned[0].plan.device
    # Users get the base model's own weights, whatever it was trained on.
    lack = lacks_memory_to_serve(config.weights_dir, device=device)
    if settings.is_quantized and not lack:
        tuned.clear()
        give_back_unused()
        model = served_model(config.results_dir / "adapter", config.weights_dir, device=device)
        return _Served(model, AS_SERVED, model.dtype)
    base = f"quantised, as trained on ({lack})" if settings.is_quantized else AS_SERVED
    trainer = tuned[0]
    return _Served(trainer.adapted, base, trainer.plan.dtype, trainer.computing)


def _leave_as_trained(
    config: TuningConfig, served: _Served, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Leave beside the adapter what it answers; a fault of that costs nothing but the look."""
    try:
        keep_as_trained(
            served.model,
            tokenizer,
            adapter=config.results_dir / "adapter",
            base_model=config.base_model,
            base_revision=config.base_revision,
            dtype=served.dtype,
            computing=served.computing,
        )
    except Exception:  # the adapter is worth more than what is said of it
        log.warning("the server will not know what was answered here", exc_info=True)
