"""The adapter beside the base model, once it is saved: no fault of this costs the adapter."""

import logging
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.contract.programs.tuning import AS_SERVED, TuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.tuning.pod.heap import give_back_unused
from tasks.tuning.pod.heldout import compare, lacks_memory_to_serve, served_model
from tasks.tuning.pod.rows import Rows
from tasks.tuning.pod.seen import keep_as_trained
from tasks.tuning.pod.trainer import AnswerTrainer

log = logging.getLogger(__name__)


def compared(
    config: TuningConfig, settings: TrainingConfig, rows: Rows, *, tuned: list[AnswerTrainer]
) -> dict[str, Any]:
    """The metrics `held_out` and, where the comparison failed, `held_out_missing`: why.

    tuned: the trainer alone, which is taken out of it where its memory is needed.
    """
    told: dict[str, Any] = {"rows": rows.held_out_rows, "examples": rows.held_out.examples}
    device = tuned[0].plan.device
    try:
        # Users get the base model's own weights, whatever it was trained on.
        lack = lacks_memory_to_serve(config.weights_dir, device=device)
        if settings.is_quantized and not lack:
            tuned.clear()
            give_back_unused()
            model = served_model(config.results_dir / "adapter", config.weights_dir, device=device)
            held_out = compare(model, rows.tokenizer, base=AS_SERVED, **told)
            _leave_as_trained(config, model, rows.tokenizer, dtype=model.dtype)
        else:
            trainer = tuned[0]
            base = f"quantised, as trained on ({lack})" if settings.is_quantized else AS_SERVED
            held_out = compare(
                trainer.adapted, rows.tokenizer, base=base, computing=trainer.computing, **told
            )
            if base == AS_SERVED:
                numbers = {"dtype": trainer.plan.dtype, "computing": trainer.computing}
                _leave_as_trained(config, trainer.adapted, rows.tokenizer, **numbers)
    except Exception as error:  # whatever it is, the run has made what it was started for
        log.warning("held-out rows not compared", exc_info=True)
        why = (str(error).splitlines() or [""])[0][:200]
        return {"held_out": None, "held_out_missing": f"{type(error).__name__}: {why}"}
    return {"held_out": held_out, "held_out_missing": None}


def _leave_as_trained(
    config: TuningConfig, model: Any, tokenizer: PreTrainedTokenizerBase, **numbers: Any
) -> None:
    """Leave beside the adapter what it answers; a fault of that costs nothing but the look."""
    try:
        keep_as_trained(
            model,
            tokenizer,
            adapter=config.results_dir / "adapter",
            base_model=config.base_model,
            base_revision=config.base_revision,
            **numbers,
        )
    except Exception:  # the adapter is worth more than what is said of it
        log.warning("the server will not know what was answered here", exc_info=True)
