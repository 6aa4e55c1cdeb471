"""The trainer's main: rows and a configuration in, a published folder and its metrics out.

In the order of cost: the configuration is checked first, then the rows, then memory, and only then
is the model loaded. A second start with the same input returns what the first one made.
"""

import gc
import json
import logging
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contract.errors import NothingLearned
from tasks.contract.podlog import Stopped, is_disk_full, read_answer
from tasks.contract.programs.tuning import AS_SERVED, EVALUATION_FILE, HeldOut, TuningConfig
from tasks.contract.training_config import (
    TOKENS_PER_PASS,
    TOKENS_PER_PASS_ON_GPU,
    TrainingConfig,
    parse_training_config,
)
from tasks.contract.training_policy import POLICY_ANNOTATION
from tasks.estimate.positions import read_positions
from tasks.tuning.pod.course import course_of, run_of
from tasks.tuning.pod.start import (
    HeldOutBefore,
    held_out_before,
    note_on_start,
    put_weights,
    start_settings,
    told_of_start,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.tuning.pod.batches import BatchPlan
    from tasks.tuning.pod.checkpoints import Checkpoint
    from tasks.tuning.pod.data import Examples, Row
    from tasks.tuning.pod.ranks import Ranks
    from tasks.tuning.pod.split import Split
    from tasks.tuning.pod.trainer import AnswerTrainer, RunPlan

log = logging.getLogger(__name__)

_NOT_COMPARED_YET = "the run was stopped before they were compared"
# More rows are held out and measured for a verdict; for a look at what changed these are enough.
_COMPARED_ROWS = 64
_VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes")


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The rows of one run, tokenised; held_out: those of its measured rows that are compared."""

    tokenizer: "PreTrainedTokenizerBase"
    split: "Split"
    train: "Examples"
    held_out: "Examples"
    held_out_rows: "list[Row]"


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
    text = config.training_config.read_text("utf-8") if config.training_config else None
    settings = start_settings(config, parse_training_config(text, method=config.method))
    run = run_of(config, settings)
    if (done := _finished(config.results_dir, run)) is not None:
        log.info("run already finished results_dir=%s", config.results_dir)
        return _judged(done, config)
    for note in settings.notes:
        log.info("setting unused %s", note)

    from serving.model.gpus import require_gpus
    from serving.model.loading import quiet_libraries

    # Before bitsandbytes is imported: it warns while it is.
    quiet_libraries()
    # trl 1.16 uses names that transformers 6 will drop; no news to a user.
    warnings.filterwarnings("ignore", message=".*removed in v6", category=FutureWarning)
    from tasks.tuning.pod.adapter import describe_adapter
    from tasks.tuning.pod.card import model_card
    from tasks.tuning.pod.model import settle_device
    from tasks.tuning.pod.progress import peak_memory_gib, tell_phase
    from tasks.tuning.pod.ranks import join_ranks

    if not settings.training.get("use_cpu"):
        require_gpus(config.gpus)
    tell_phase("load")
    ranks = join_ranks(on_gpu=settle_device(settings) != "cpu")
    data = _read(config, settings, keeps=ranks.is_first)
    trainer = _trained(config, settings, data=data, ranks=ranks)
    trainer.peak_memory_gib = ranks.sum(peak_memory_gib())
    trainer.go_on_alone()
    tell_phase("save")
    metrics = _metrics(config, settings, data=data, trainer=trainer)
    _save(trainer, config, tokenizer=data.tokenizer, metrics=metrics)
    run_facts = {
        "tokens_per_s": round(trainer.telling.tokens_per_s, 1),
        "peak_memory_gib": round(trainer.peak_memory_gib, 2),
        "notes": trainer.notes,
    }
    finish = partial(_finish, config, run=run, told=run_facts, started_s=started_s)
    result = finish(metrics)
    if settings.training.get("save_strategy", "no") == "no":
        shutil.rmtree(config.results_dir / "checkpoints", ignore_errors=True)
    # What was learned is safe now: the comparison is an extra, no fault of it costs the adapter.
    if data.held_out.examples:
        tell_phase("evaluate")
        tuned = [trainer]
        del trainer
        metrics |= _compared(config, settings, data, tuned=tuned)
        describe_adapter(config.results_dir / "adapter", metrics, card=model_card(metrics))
        result = finish(metrics)
    return _judged(result, config)


def _judged(result: Mapping[str, Any], config: TuningConfig) -> Mapping[str, Any]:
    """The result, if what it says of held-out answers may be published.

    Raises: NothingLearned: it is worse than the base model, and its policy does not let it pass.
    """
    told = result["held_out"]
    if told is None or config.policy.worse == "warn":
        return result
    held_out = read_answer(HeldOut, told)
    if held_out.is_surely_worse:
        raise NothingLearned(
            f"{config.base_model} was tuned in {result['steps']} steps",
            f"the loss on {held_out.rows} held-out answers is {held_out.loss_after:.3f}"
            f"{held_out.verdict}; without the adapter it is {held_out.loss_before:.3f}",
            "lower TrainingArguments.learning_rate, train more or other rows, or, to publish and "
            f'serve it all the same, annotate {POLICY_ANNOTATION}: "worse warn"',
        )
    return result


def _finish(
    config: TuningConfig,
    metrics: Mapping[str, Any],
    *,
    run: str,
    told: Mapping[str, Any],
    started_s: float,
) -> Mapping[str, Any]:
    """The result's fields, kept in metrics.json: a second start finds them and trains no more."""
    from tasks.tuning.pod.adapter import write_json

    losses = [
        {"step": line["step"], "loss": line["loss"]}
        for line in metrics["history"]
        if "loss" in line
    ]
    names = ("steps", "tokens", "rows", "held_out", "held_out_missing", "weights")
    result = {name: metrics[name] for name in names} | {
        "adapter": str(config.results_dir / "adapter"),
        "final_loss": losses[-1]["loss"],
        "history": losses,
        "seconds": round(time.monotonic() - started_s, 1),
        **told,
    }
    write_json(config.results_dir / "metrics.json", {"run": run, "result": result, **metrics})
    return result


def _compared(
    config: TuningConfig, settings: TrainingConfig, data: _Data, *, tuned: "list[AnswerTrainer]"
) -> dict[str, Any]:
    """The metrics `held_out` and, where the comparison failed, `held_out_missing`: why.

    tuned: the trainer alone, which is taken out of it where its memory is needed.
    """
    from tasks.tuning.pod.heldout import compare, lacks_memory_to_serve, served_model

    told: dict[str, Any] = {"rows": data.held_out_rows, "examples": data.held_out.examples}
    device = tuned[0].plan.device
    try:
        # Users get the base model's own weights, whatever it was trained on.
        lack = lacks_memory_to_serve(config.weights_dir, device=device)
        if settings.is_quantized and not lack:
            tuned.clear()
            _give_memory_back()
            model = served_model(config.results_dir / "adapter", config.weights_dir, device=device)
            held_out = compare(model, data.tokenizer, base=AS_SERVED, **told)
            _keep_as_trained(config, model, data.tokenizer, dtype=model.dtype)
        else:
            trainer = tuned[0]
            base = f"quantised, as trained on ({lack})" if settings.is_quantized else AS_SERVED
            held_out = compare(
                trainer.adapted, data.tokenizer, base=base, computing=trainer.computing, **told
            )
            if base == AS_SERVED:
                numbers = {"dtype": trainer.plan.dtype, "computing": trainer.computing}
                _keep_as_trained(config, trainer.adapted, data.tokenizer, **numbers)
    except Exception as error:  # whatever it is, the run has made what it was started for
        log.warning("held-out rows not compared", exc_info=True)
        why = (str(error).splitlines() or [""])[0][:200]
        return {"held_out": None, "held_out_missing": f"{type(error).__name__}: {why}"}
    return {"held_out": held_out, "held_out_missing": None}


def _keep_as_trained(
    config: TuningConfig, model: Any, tokenizer: "PreTrainedTokenizerBase", **numbers: Any
) -> None:
    """Leave beside the adapter what it answers; a fault of that costs nothing but the look."""
    from tasks.tuning.pod.seen import keep_as_trained

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


def _give_memory_back() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _with_dataset_digest(config: TuningConfig) -> TuningConfig:
    """The config with the digest that the dataset program has reported, where none was given."""
    if config.dataset_digest:
        return config
    report = json.loads((config.train_file.parent / "report.json").read_text("utf-8"))
    return replace(config, dataset_digest=report["digest"])


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


def _read(config: TuningConfig, settings: TrainingConfig, *, keeps: bool) -> _Data:
    """The rows. Args: keeps: also leave those that are measured beside the adapter."""
    from tasks.tuning.pod.data import read_rows, tokenise
    from tasks.tuning.pod.model import load_tuning_tokenizer
    from tasks.tuning.pod.split import split_rows

    tokenizer = load_tuning_tokenizer(config.weights_dir, settings)
    max_length = min(settings.max_length, read_positions(config.weights_dir) or settings.max_length)
    rows = read_rows(config.train_file)
    split = _unseen(split_rows(rows, settings.dataset), rows, config)
    if keeps:
        _keep_measured(config.results_dir, [rows[place] for place in split.measured])
    compared = split.measured[:_COMPARED_ROWS]
    train, held_out = (
        tokenise(
            [rows[place] for place in places],
            tokenizer,
            max_length=max_length,
            numbers=[place + 1 for place in places],
            may_be_silent=places is compared,
        )
        for places in (split.trained, compared)
    )
    log.info(
        "rows read train=%d held_out=%d resembling=%d compared=%d examples=%d cut=%d dropped=%d",
        train.rows,
        split.held_out,
        split.resembling,
        held_out.rows,
        len(train.examples) + len(held_out.examples),
        train.cut,
        train.dropped,
    )
    return _Data(
        tokenizer=tokenizer,
        split=split,
        train=train,
        held_out=held_out,
        held_out_rows=[rows[place] for place in compared],
    )


def _unseen(split: "Split", rows: "Sequence[Row]", config: TuningConfig) -> "Split":
    """The split without measured rows that the adapter which is gone on from was trained on."""
    from tasks.tuning.pod.split import held_out_as_well

    measured = split.measured
    for before in held_out_before(config):
        measured = held_out_as_well(rows, measured, seed=before.seed, share=before.share)
    if measured or not split.measured:
        return replace(split, measured=measured)
    missing = f"{config.start_name} was trained on all rows that are held out now"
    return replace(split, measured=[], missing=missing)


def _keep_measured(results_dir: Path, rows: "Sequence[Row]") -> None:
    """Leave the rows that are measured beside the adapter, for whoever compares it with another."""
    results_dir.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (results_dir / EVALUATION_FILE).write_text(lines, encoding="utf-8")


def _trained(
    config: TuningConfig, settings: TrainingConfig, *, data: _Data, ranks: "Ranks"
) -> "AnswerTrainer":
    """The trainer after its last step; in smaller passes where one has not fitted after all.

    It goes on from the last checkpoint. In how many passes a step is taken changes nothing of what
    it learns.
    """
    import torch

    from tasks.tuning.pod.progress import tell_phase
    from tasks.tuning.pod.together import ask_for_passes

    plan: RunPlan | None = None
    while True:
        trainer, checkpoint = _build(config, settings, data=data, plan=plan, ranks=ranks)
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
        _give_memory_back()
        tell_phase("load")


def _tell_smaller(plan: "RunPlan", smaller: "RunPlan") -> None:
    log.warning(
        "out of memory, going on with smaller passes: rows_per_pass=%d instead of %d "
        "passes_per_step=%d gradient_checkpointing=%s",
        smaller.batches.rows_per_pass,
        plan.batches.rows_per_pass,
        smaller.batches.passes_per_step,
        smaller.gradient_checkpointing,
    )


def _build(
    config: TuningConfig,
    settings: TrainingConfig,
    *,
    data: _Data,
    plan: "RunPlan | None",
    ranks: "Ranks",
) -> "tuple[AnswerTrainer, Checkpoint | None]":
    """The trainer, and the checkpoint that it goes on from; plan: None = it is to be made."""
    from serving.model.loading import expect_plain_weights
    from tasks.tuning.pod.away import fetch
    from tasks.tuning.pod.checkpoints import SEAL, find_checkpoint
    from tasks.tuning.pod.heap import give_back_freed_blocks
    from tasks.tuning.pod.model import load_tuning_model, lora_settings
    from tasks.tuning.pod.trainer import AnswerTrainer, sft_arguments, without_effect
    from tasks.tuning.pod.weights import expect_quantized

    expect_plain_weights(config.weights_dir, asked=f"{config.base_model} is to be tuned")
    lengths = [len(one.input_ids) for one in data.train.examples]
    course = course_of(config, settings)
    ranks.expect_alike(course)
    folder = config.results_dir / "checkpoints"
    fetched = ranks.from_first(lambda: fetch(folder, config.away) if config.away else [])
    checkpoint, told = ranks.from_first(
        lambda: find_checkpoint(
            folder,
            course=course,
            steps=lambda rows: _steps(settings, rows=len(lengths), rows_per_step=rows),
        )
    )
    if checkpoint:
        checkpoint = replace(checkpoint, path=folder / checkpoint.path.name)
        ranks.share_folder(checkpoint.path, seal=SEAL)
    plan = plan or _plan(
        config, settings, lengths=lengths, course=course, begun=checkpoint, ranks=ranks
    )
    if plan.gradient_checkpointing and plan.device == "cpu":
        give_back_freed_blocks()
    steps = _steps(settings, rows=len(lengths), rows_per_step=plan.batches.rows_per_step)
    followed, notes = without_effect(
        settings, on_gpu=plan.device != "cpu", held_out=len(data.held_out.examples)
    )
    args = sft_arguments(followed, plan, steps=steps)
    model = load_tuning_model(
        config.weights_dir, settings, device=plan.device, longest=plan.batches.longest
    )
    if settings.is_quantized:
        expect_quantized(model, asked=f"{config.base_model} is to be tuned by {settings.method}")
    log.info(
        "run planned processes=%d rows_per_pass=%d passes_per_step=%d steps=%d "
        "gradient_checkpointing=%s",
        ranks.count,
        plan.batches.rows_per_pass,
        plan.batches.passes_per_step,
        steps,
        plan.gradient_checkpointing,
    )
    trainer = AnswerTrainer(
        model,
        args=args,
        plan=plan,
        train=data.train.examples,
        held_out=data.held_out.examples,
        tokenizer=data.tokenizer,
        lora=lora_settings(settings, model),
        ranks=ranks,
        policy=config.policy,
        away=config.away,
    )
    put_weights(trainer.adapted, config)
    trainer.notes += [
        *note_on_start(config),
        *notes,
        *fetched,
        *told,
        *_shared(plan.batches),
    ]
    if checkpoint:
        log.info("run resumed checkpoint=%s", checkpoint.path.name)
        trainer.notes.append(f"went on from step {checkpoint.step} of {steps}")
    return trainer, checkpoint


def _plan(
    config: TuningConfig,
    settings: TrainingConfig,
    *,
    lengths: Sequence[int],
    course: Mapping[str, Any],
    begun: "Checkpoint | None",
    ranks: "Ranks",
) -> "RunPlan":
    """Batches that suit the rows and fit the memory.

    begun: what is gone on from. Its steps learned from so many rows in that order; so do the next.

    Raises: ModelDoesNotFit, WeightsUnavailable.
    """
    from tasks.tuning.pod.batches import BatchPlan, plan_batches
    from tasks.tuning.pod.memory import (
        available_memory_gib,
        free_gpu_gib,
        read_shape,
        settle_batch,
    )
    from tasks.tuning.pod.model import settle_device, settle_dtype
    from tasks.tuning.pod.together import passes_asked_for
    from tasks.tuning.pod.trainer import CHECKPOINTS_KEPT, RunPlan

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


def _shared(batches: "BatchPlan") -> list[str]:
    """What is to be told of how processes share a step; nothing where each has its rows."""
    idle = batches.processes - batches.rows_per_step
    if idle <= 0:
        return []
    rows = batches.rows_per_step
    return [f"{idle} of {batches.processes} GPUs had nothing to do: a step has {rows} row(s)"]


def _steps(settings: TrainingConfig, *, rows: int, rows_per_step: int) -> int:
    asked: int = settings.training.get("max_steps", -1)
    epochs: float = settings.training["num_train_epochs"]
    return asked if asked > 0 else ceil(rows / rows_per_step * epochs)


def _train(trainer: "AnswerTrainer", checkpoint: "Checkpoint | None") -> None:
    trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    if trainer.saving.stop_requested:
        raise Stopped
    trainer.guard.expect_learned(
        [line["loss"] for line in trainer.state.log_history if "loss" in line]
    )


def _metrics(
    config: TuningConfig, settings: TrainingConfig, *, data: _Data, trainer: "AnswerTrainer"
) -> dict[str, Any]:
    """All that is told of the run but times and places, before rows held out are compared."""
    from tasks.tuning.pod.weights import count_weights

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
            "trained": data.train.rows,
            "held_out": data.split.held_out,
            "resembling": data.split.resembling,
            "cut": data.train.cut,
            "dropped": data.train.dropped + data.held_out.dropped,
        },
        "weights": asdict(count_weights(trainer.adapted)),
        "history": history,
        "versions": {name: version(name) for name in _VERSIONS},
        "held_out": None,
        "held_out_share": data.split.share,
        "held_out_missing": _why_missing(data),
        **told_of_start(
            config,
            own=HeldOutBefore(seed=settings.dataset.shuffle_seed, share=data.split.share),
        ),
    }


def _why_missing(data: _Data) -> str | None:
    if data.held_out.examples:
        return _NOT_COMPARED_YET
    if data.held_out_rows:
        return "no row that was held out has an answer within max_length"
    return data.split.missing or None


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
