"""The trainer's main: rows and a configuration in, a published folder and its metrics out.

In the order of cost: the configuration is checked first, then the rows, then memory, and only then
is the model loaded. A second start with the same input returns what the first one made.
"""

import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contract.podlog import Stopped
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.training_config import (
    TOKENS_PER_PASS,
    TOKENS_PER_PASS_ON_GPU,
    TrainingConfig,
    parse_training_config,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.tuning.pod.data import Examples, Row
    from tasks.tuning.pod.trainer import AnswerTrainer, RunPlan

log = logging.getLogger(__name__)

_NOT_COMPARED_YET = "the run was stopped before they were compared"
_VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes")


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The rows of one run, tokenised."""

    tokenizer: "PreTrainedTokenizerBase"
    train: "Examples"
    held_out: "Examples"
    held_out_rows: "list[Row]"


def main(config: TuningConfig) -> Mapping[str, Any]:
    """The fields of the result event: adapter, steps, final_loss, tokens, seconds, held_out, ...

    held_out_missing: why rows that were held out have no figures; None where nothing is missing.

    Raises: InvalidTuningConfig, DatasetUnreadable, DatasetRowsInvalid, ModelDoesNotFit,
    WeightsUnavailable, GpuIncompatible, TrainingDiverged, Stopped.
    """
    started_s = time.monotonic()
    config = _with_dataset_digest(config)
    text = config.training_config.read_text("utf-8") if config.training_config else None
    settings = parse_training_config(text, method=config.method)
    run = _fingerprint(config, settings)
    if (done := _finished(config.results_dir, run)) is not None:
        log.info("run already finished results_dir=%s", config.results_dir)
        return done
    for note in settings.notes:
        log.info("setting unused %s", note)

    from serving.gpus import require_gpus
    from serving.model import quiet_libraries

    # Before bitsandbytes is imported: it warns while it is.
    quiet_libraries()
    # trl 1.16 uses names that transformers 6 will drop; no news to a user.
    warnings.filterwarnings("ignore", message=".*removed in v6", category=FutureWarning)
    from tasks.tuning.pod.adapter import describe_adapter
    from tasks.tuning.pod.card import model_card
    from tasks.tuning.pod.progress import tell_phase

    if not settings.training.get("use_cpu"):
        require_gpus(config.gpus)
    tell_phase("load")
    data = _read(config, settings)
    trainer = _build(config, settings, data=data, run=run)
    tell_phase("train")
    _train(trainer, config, run)
    tell_phase("save")
    metrics = _metrics(config, settings, data=data, trainer=trainer)
    _save(trainer, config, tokenizer=data.tokenizer, metrics=metrics)
    result = _finish(trainer, config, run=run, metrics=metrics, started_s=started_s)
    if settings.training.get("save_strategy", "no") == "no":
        shutil.rmtree(config.results_dir / "checkpoints", ignore_errors=True)
    # What was learned is safe now: the comparison is an extra, no fault of it costs the adapter.
    if data.held_out.examples:
        tell_phase("evaluate")
        metrics |= _compared(trainer, data)
        describe_adapter(config.results_dir / "adapter", metrics, card=model_card(metrics))
        result = _finish(trainer, config, run=run, metrics=metrics, started_s=started_s)
    return result


def _finish(
    trainer: "AnswerTrainer",
    config: TuningConfig,
    *,
    run: str,
    metrics: Mapping[str, Any],
    started_s: float,
) -> Mapping[str, Any]:
    """The result's fields, kept in metrics.json: a second start finds them and trains no more."""
    from tasks.tuning.pod.adapter import write_json
    from tasks.tuning.pod.progress import peak_memory_gib

    losses = [
        {"step": line["step"], "loss": line["loss"]}
        for line in metrics["history"]
        if "loss" in line
    ]
    told = ("steps", "tokens", "rows", "held_out", "held_out_missing")
    result = {name: metrics[name] for name in told} | {
        "adapter": str(config.results_dir / "adapter"),
        "final_loss": losses[-1]["loss"],
        "history": losses,
        "tokens_per_s": round(trainer.telling.tokens_per_s, 1),
        "peak_memory_gib": round(peak_memory_gib(), 2),
        "seconds": round(time.monotonic() - started_s, 1),
    }
    write_json(config.results_dir / "metrics.json", {"run": run, "result": result, **metrics})
    return result


def _compared(trainer: "AnswerTrainer", data: _Data) -> dict[str, Any]:
    """The metrics `held_out` and, where the comparison failed, `held_out_missing`: why."""
    from tasks.tuning.pod.heldout import compare

    try:
        held_out = compare(
            trainer, data.tokenizer, rows=data.held_out_rows, examples=data.held_out.examples
        )
    except Exception as error:  # whatever it is, the run has made what it was started for
        log.warning("held-out rows not compared", exc_info=True)
        why = (str(error).splitlines() or [""])[0][:200]
        return {"held_out": None, "held_out_missing": f"{type(error).__name__}: {why}"}
    return {"held_out": held_out, "held_out_missing": None}


def _with_dataset_digest(config: TuningConfig) -> TuningConfig:
    """The config with the digest that the dataset program has reported, where none was given."""
    if config.dataset_digest:
        return config
    report = json.loads((config.train_file.parent / "report.json").read_text("utf-8"))
    return replace(config, dataset_digest=report["digest"])


def _fingerprint(config: TuningConfig, settings: TrainingConfig) -> str:
    """A name for all that decides the outcome."""
    decisive = {
        "base_model": config.base_model,
        "base_revision": config.base_revision,
        "dataset_digest": config.dataset_digest,
        "train_file_bytes": config.train_file.stat().st_size if config.train_file.exists() else 0,
        "settings": asdict(settings) | {"given": sorted(settings.given)},
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _finished(results_dir: Path, run: str) -> Mapping[str, Any] | None:
    """What this very run reported when it ended; None if it has not."""
    try:
        written = json.loads((results_dir / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = (results_dir / "adapter" / "adapter_model.safetensors").is_file()
    if written.get("run") != run or not is_whole:
        return None
    result: Mapping[str, Any] = written["result"]
    return result


def _read(config: TuningConfig, settings: TrainingConfig) -> _Data:
    from tasks.tuning.pod.data import divide, read_rows, tokenise
    from tasks.tuning.pod.model import load_tuning_tokenizer

    tokenizer = load_tuning_tokenizer(config.weights_dir, settings)
    numbered = list(enumerate(read_rows(config.train_file), start=1))
    train_part, held_out_part = divide(numbered, settings.dataset)
    train, held_out = (
        tokenise(
            [row for _, row in rows],
            tokenizer,
            max_length=settings.max_length,
            numbers=[number for number, _ in rows],
        )
        for rows in (train_part, held_out_part)
    )
    log.info(
        "rows read train=%d held_out=%d cut=%d dropped=%d",
        len(train.examples),
        len(held_out.examples),
        train.cut,
        train.dropped,
    )
    held_out_rows = [row for _, row in held_out_part]
    return _Data(tokenizer=tokenizer, train=train, held_out=held_out, held_out_rows=held_out_rows)


def _build(
    config: TuningConfig, settings: TrainingConfig, *, data: _Data, run: str
) -> "AnswerTrainer":
    from tasks.tuning.pod.heap import give_back_freed_blocks
    from tasks.tuning.pod.model import load_tuning_model, lora_settings
    from tasks.tuning.pod.trainer import AnswerTrainer, sft_arguments

    lengths = [len(one.input_ids) for one in data.train.examples]
    plan = _plan(config, settings, lengths=lengths, run=run)
    if plan.gradient_checkpointing and plan.device == "cpu":
        give_back_freed_blocks()
    steps = _steps(settings, rows=len(lengths), rows_per_step=plan.batches.rows_per_step)
    args = sft_arguments(settings, plan, steps=steps)
    model = load_tuning_model(
        config.weights_dir, settings, device=plan.device, longest=plan.batches.longest
    )
    log.info(
        "run planned rows_per_pass=%d passes_per_step=%d steps=%d gradient_checkpointing=%s",
        plan.batches.rows_per_pass,
        plan.batches.passes_per_step,
        steps,
        plan.gradient_checkpointing,
    )
    return AnswerTrainer(
        model,
        args=args,
        plan=plan,
        train=data.train.examples,
        held_out=data.held_out.examples,
        tokenizer=data.tokenizer,
        lora=lora_settings(settings, model),
    )


def _plan(
    config: TuningConfig, settings: TrainingConfig, *, lengths: Sequence[int], run: str
) -> "RunPlan":
    """Batches that suit the rows and fit the memory.

    Raises: ModelDoesNotFit, WeightsUnavailable.
    """
    from tasks.tuning.pod.batches import plan_batches
    from tasks.tuning.pod.memory import available_memory_gib, read_shape, settle_batch
    from tasks.tuning.pod.model import settle_device, settle_dtype
    from tasks.tuning.pod.trainer import RunPlan

    device = settle_device(settings)
    on_gpu = device != "cpu"
    dtype = settle_dtype(settings.model.torch_dtype, device)
    batches = plan_batches(
        lengths,
        epochs=settings.training["num_train_epochs"],
        tokens_per_pass=TOKENS_PER_PASS_ON_GPU if on_gpu else TOKENS_PER_PASS,
        rows_per_pass=settings.rows_per_pass,
        passes_per_step=settings.training.get("gradient_accumulation_steps"),
    )
    fitting = settle_batch(
        read_shape(config.weights_dir),
        settings,
        settings.tuning_shape(
            on_gpu=on_gpu,
            rows=batches.rows_per_pass,
            row_tokens=batches.longest,
            compute_bytes=4 if dtype.itemsize == 4 else 2,
        ),
        available_gib=available_memory_gib(use_gpu=on_gpu),
    )
    return RunPlan(
        run=run,
        checkpoints_dir=config.results_dir / "checkpoints",
        batches=batches.with_rows(fitting.rows),
        device=device,
        dtype=dtype,
        gradient_checkpointing=fitting.gradient_checkpointing,
    )


def _steps(settings: TrainingConfig, *, rows: int, rows_per_step: int) -> int:
    asked: int = settings.training.get("max_steps", -1)
    epochs: float = settings.training["num_train_epochs"]
    return asked if asked > 0 else ceil(rows / rows_per_step * epochs)


def _train(trainer: "AnswerTrainer", config: TuningConfig, run: str) -> None:
    from tasks.tuning.pod.checkpoints import find_checkpoint

    checkpoint = find_checkpoint(config.results_dir / "checkpoints", run=run)
    if checkpoint:
        log.info("run resumed checkpoint=%s", checkpoint.name)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.saving.stop_requested:
        raise Stopped


def _metrics(
    config: TuningConfig, settings: TrainingConfig, *, data: _Data, trainer: "AnswerTrainer"
) -> dict[str, Any]:
    """All that is told of the run but times and places, before rows held out are compared."""
    told = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss")
    history = [
        {name: line[name] for name in told if name in line}
        for line in trainer.state.log_history
        if "loss" in line or "eval_loss" in line
    ]
    return {
        "base_model": config.base_model,
        "base_revision": config.base_revision,
        "dataset_digest": config.dataset_digest,
        "method": settings.method,
        "settings": _settings(settings, trainer),
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        "rows": {
            "trained": len(data.train.examples),
            "held_out": len(data.held_out.examples),
            "cut": data.train.cut,
            "dropped": data.train.dropped + data.held_out.dropped,
        },
        "history": history,
        "versions": {name: version(name) for name in _VERSIONS},
        "held_out": None,
        "held_out_missing": _NOT_COMPARED_YET if data.held_out.examples else None,
    }


def _settings(settings: TrainingConfig, trainer: "AnswerTrainer") -> dict[str, Any]:
    """The settings as they were used, chosen ones included."""
    lora = trainer.adapted.peft_config["default"]
    targets = lora.target_modules
    return {
        "lora": settings.lora
        | {"target_modules": targets if isinstance(targets, str) else sorted(targets)},
        "quantization": settings.quantization,
        "training": settings.training
        | {
            "per_device_train_batch_size": trainer.args.per_device_train_batch_size,
            "gradient_accumulation_steps": trainer.args.gradient_accumulation_steps,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "seed": trainer.args.seed,
        },
        "dataset": asdict(settings.dataset),
        "dtype": str(trainer.plan.dtype).removeprefix("torch."),
    }


def _save(
    trainer: "AnswerTrainer",
    config: TuningConfig,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    metrics: Mapping[str, Any],
) -> None:
    from tasks.tuning.pod.adapter import save_adapter
    from tasks.tuning.pod.card import model_card

    save_adapter(
        trainer.adapted,
        tokenizer,
        folder=config.results_dir / "adapter",
        base_model=config.base_model,
        base_revision=config.base_revision,
        metrics=metrics,
        card=model_card(metrics),
    )
