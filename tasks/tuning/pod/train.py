"""The trainer's main: rows and a configuration in, a published folder and its metrics out.

In the order of cost: the configuration is checked first, then the rows, then memory, and only then
is the model loaded. A second start with the same input returns what the first one made.

rows.py                    the rows, read, split and tokenised
planning.py, training.py   how many rows a pass has, and the steps until the last one (trainer.py)
metrics.py, comparing.py   what the run has come to, beside the base model (heldout.py)
result.py                  what is answered, now and at a second start
"""

import json
import logging
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.contract.podlog import is_disk_full
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.training_config import TrainingConfig, parse_training_config
from tasks.tuning.pod.course import run_of
from tasks.tuning.pod.result import finished_result, judged, keep_result
from tasks.tuning.pod.start import start_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.tuning.pod.trainer import AnswerTrainer

log = logging.getLogger(__name__)


def main(config: TuningConfig) -> Mapping[str, Any]:
    """The fields of the result event: adapter, steps, final_loss, tokens, seconds, held_out, ...

    held_out_missing: why rows that were held out have no figures; None where nothing is missing.
    Of several processes the first one answers; the others end where it goes on alone.

    Raises: InvalidTuningConfig, DatasetUnreadable, DatasetRowsInvalid, ModelDoesNotFit,
    ModelNotSupported, WeightsUnavailable, GpuIncompatible, TrainingDiverged, NothingLearned,
    BudgetSpent, Stopped, AdapterMismatch.
    """
    started_s = time.monotonic()
    config = _with_dataset_digest(config)
    settings = _settings(config)
    run = run_of(config, settings)
    if (done := finished_result(config.results_dir, run)) is not None:
        log.info("run already finished results_dir=%s", config.results_dir)
        return judged(done, config)
    for note in settings.notes:
        log.info("setting unused %s", note)
    _quiet_libraries()
    return judged(_tuned(config, settings, run=run, started_s=started_s), config)


def _tuned(
    config: TuningConfig, settings: TrainingConfig, *, run: str, started_s: float
) -> Mapping[str, Any]:
    from serving.model.gpus import require_gpus
    from tasks.tuning.pod.adapter import describe_adapter
    from tasks.tuning.pod.card import model_card
    from tasks.tuning.pod.model import settle_device
    from tasks.tuning.pod.progress import peak_memory_gib, tell_phase
    from tasks.tuning.pod.ranks import join_ranks
    from tasks.tuning.pod.rows import rows_of_run

    if not settings.training.get("use_cpu"):
        require_gpus(config.gpus)
    tell_phase("load")
    ranks = join_ranks(on_gpu=settle_device(settings) != "cpu")
    rows = rows_of_run(config, settings, keeps=ranks.is_first)

    # TRL takes long to import: what is wrong with the rows is told before.
    from tasks.tuning.pod.comparing import compared
    from tasks.tuning.pod.metrics import metrics_of
    from tasks.tuning.pod.training import trained

    trainer = trained(config, settings, rows=rows, ranks=ranks)
    trainer.peak_memory_gib = ranks.sum(peak_memory_gib())
    trainer.go_on_alone()
    tell_phase("save")
    metrics = metrics_of(config, settings, rows=rows, trainer=trainer)
    _save(trainer, config, tokenizer=rows.tokenizer, metrics=metrics)
    run_facts = {
        "tokens_per_s": round(trainer.telling.tokens_per_s, 1),
        "peak_memory_gib": round(trainer.peak_memory_gib, 2),
        "notes": trainer.notes,
    }
    keep = partial(keep_result, config, run=run, told=run_facts, started_s=started_s)
    result = keep(metrics)
    if settings.training.get("save_strategy", "no") == "no":
        shutil.rmtree(config.results_dir / "checkpoints", ignore_errors=True)
    # What was learned is safe now: the comparison is an extra, no fault of it costs the adapter.
    tell_phase("evaluate")
    tuned = [trainer]
    del trainer
    told = compared(config, settings, rows, tuned=tuned)
    if rows.held_out.examples:
        metrics |= told
        describe_adapter(config.results_dir / "adapter", metrics, card=model_card(metrics))
        result = keep(metrics)
    return result


def _settings(config: TuningConfig) -> TrainingConfig:
    """What the user has said, with what follows from the adapter that is gone on from."""
    text = config.training_config.read_text("utf-8") if config.training_config else None
    return start_settings(config, parse_training_config(text, method=config.method))


def _quiet_libraries() -> None:
    """Have the libraries say nothing that is no news; bitsandbytes warns while it is imported."""
    from serving.model.loading import quiet_libraries

    quiet_libraries()
    # trl 1.16 uses names that transformers 6 will drop; no news to a user.
    warnings.filterwarnings("ignore", message=".*removed in v6", category=FutureWarning)


def _with_dataset_digest(config: TuningConfig) -> TuningConfig:
    """The config with the digest that the dataset program has reported, where none was given."""
    if config.dataset_digest:
        return config
    report = json.loads((config.train_file.parent / "report.json").read_text("utf-8"))
    return replace(config, dataset_digest=report["digest"])


def _save(
    trainer: "AnswerTrainer",
    config: TuningConfig,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    metrics: Mapping[str, Any],
) -> None:
    """Write the adapter's folder; on a full disk the checkpoints, made for its sake, make room."""
    from tasks.tuning.pod.adapter import save_adapter
    from tasks.tuning.pod.card import model_card

    save = partial(
        save_adapter,
        trainer.adapted,
        tokenizer,
        folder=config.results_dir / "adapter",
        base_model=config.base_model,
        base_revision=config.base_revision,
        metrics=metrics,
        card=model_card(metrics),
    )
    checkpoints = config.results_dir / "checkpoints"
    try:
        save()
    except Exception as error:
        if not is_disk_full(error) or not any(checkpoints.glob("checkpoint-*")):
            raise
        log.warning("the disk is full: all checkpoints are removed to save the adapter")
        trainer.notes.append("the disk was full: checkpoints were removed to save the adapter")
        shutil.rmtree(checkpoints)
        save()
