"""What a run has come to, as the adapter's metrics.json tells it."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from serving.weights.marker import read_marker
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.tuning.pod.rows import Rows
from tasks.tuning.pod.start import HeldOutBefore, evaluation_digest, told_of_start
from tasks.tuning.pod.trainer import AnswerTrainer
from tasks.tuning.pod.weights import count_weights

_NOT_COMPARED_YET = "the run was stopped before they were compared"
_VERSIONS = ("kaitoflow", "torch", "transformers", "trl", "peft", "bitsandbytes")


def metrics_of(
    config: TuningConfig, settings: TrainingConfig, *, rows: Rows, trainer: AnswerTrainer
) -> dict[str, Any]:
    """All that is told of the run but times and places, before rows held out are compared."""
    told = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss")
    history = [
        {name: line[name] for name in told if name in line}
        for line in trainer.state.log_history
        if "loss" in line or "eval_loss" in line
    ]
    marker = read_marker(config.weights_dir)
    return {
        "base_model": config.base_model,
        "base_revision": config.base_revision,
        "base_commit": marker.commit if marker else "",
        "base_files": marker.files_digest if marker else "",
        "dataset_digest": config.dataset_digest,
        "method": settings.method,
        "settings": _settings(settings, trainer),
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        "rows": {
            "trained": rows.train.rows,
            "held_out": rows.split.held_out,
            "resembling": rows.split.resembling,
            "cut": rows.train.cut,
            "dropped": rows.train.dropped + rows.held_out.dropped,
            "left_out": rows.split.left_out,
        },
        "weights": asdict(count_weights(trainer.adapted)),
        "history": history,
        "versions": {name: version(name) for name in _VERSIONS},
        "held_out": None,
        "held_out_share": rows.split.share,
        "evaluation_data": evaluation_digest(config),
        "held_out_missing": _why_missing(rows),
        **told_of_start(
            config,
            own=HeldOutBefore(seed=settings.dataset.shuffle_seed, share=rows.split.share),
        ),
    }


def _why_missing(rows: Rows) -> str | None:
    if rows.held_out.examples:
        return _NOT_COMPARED_YET
    if rows.held_out_rows:
        return "no row that was held out has an answer within max_length"
    return rows.split.missing or None


def _settings(settings: TrainingConfig, trainer: AnswerTrainer) -> dict[str, Any]:
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
