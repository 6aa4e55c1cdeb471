"""What decides where a run is after each of its steps, and what decides how it ends.

A checkpoint is gone on from where the first is the same; a finished run is not run again where the
second is. How often is logged, saved or evaluated is in neither, how many epochs in the second.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.tuning.pod.start import evaluation_digest, share_before, weights_digest

# Settings of `TrainingArguments` that no weight depends on.
_DECIDE_NOTHING = frozenset(
    (
        *("logging_steps", "save_strategy", "save_steps", "save_total_limit"),
        *("per_device_eval_batch_size", "dataloader_num_workers", "dataloader_pin_memory"),
        *("gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_offloading"),
        "torch_empty_cache_steps",
    )
)
# Evaluations choose between checkpoints where the best one is kept.
_EVALUATION = frozenset(("eval_strategy", "eval_steps", "eval_delay"))
# Where a run ends; it passes through the same steps until then, at other learning rates.
_LENGTH = frozenset(("num_train_epochs", "max_steps"))
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_READ_WHOLE = 64 * 1024**2


def course_of(config: TuningConfig, settings: TrainingConfig) -> dict[str, Any]:
    """All that the weights after a step depend on, by name, as JSON."""
    course: dict[str, Any] = {
        "base_model": config.base_model,
        "base_revision": config.base_revision,
        "weights": _fingerprints(config.weights_dir),
        "dataset_digest": config.dataset_digest,
        "train_file_bytes": config.train_file.stat().st_size if config.train_file.exists() else 0,
        "settings": _decisive(settings),
    }
    if config.start:
        course["start"] = weights_digest(config.start)
    if config.serving:
        course["held_out_share"] = share_before(config)
    if digest := evaluation_digest(config):
        course["evaluation_data"] = digest
    # As it is read back from a checkpoint.
    read_back: dict[str, Any] = json.loads(json.dumps(course))
    return read_back


def run_of(config: TuningConfig, settings: TrainingConfig) -> str:
    """A digest of all that decides the outcome."""
    length = {name: settings.training.get(name) for name in sorted(_LENGTH)}
    decisive = course_of(config, settings) | {"length": length}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _decisive(settings: TrainingConfig) -> dict[str, Any]:
    without = _DECIDE_NOTHING | _LENGTH
    if not settings.keeps_best:
        without |= _EVALUATION
    values = asdict(settings)
    del values["notes"], values["given_lora"]
    values["training"] = {k: v for k, v in values["training"].items() if k not in without}
    values["given"] = sorted(settings.given - without)
    return values


def _fingerprints(weights_dir: Path) -> dict[str, str]:
    """A digest of each file that a model is loaded from: a name stands for other weights tomorrow.

    Of large files the size and 64 places count. That tells other weights; that these are as they
    were published is checked where they are fetched.
    """
    kinds = ("*.safetensors", "*.json", "*.jinja", "*.model")
    files = sorted(file for kind in kinds for file in weights_dir.glob(kind))
    return {file.name: _fingerprint(file) for file in files}


def _fingerprint(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        if size <= _READ_WHOLE:
            digest.update(opened.read())
            return digest.hexdigest()
        for number in range(_SAMPLES):
            opened.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()
