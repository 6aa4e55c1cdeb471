"""What the trainer is told; the caller builds it, the trainer owns it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """One tuning run.

    weights_dir: base model, tokenizer and chat template (Hugging Face layout).
    base_model, base_revision: the names written into the adapter's config and the model card.
    train_file: normalised rows, as the dataset program leaves them (`train.jsonl`).
    dataset_digest: sha256 of the dataset's bytes, for the model card; empty = as told by the
        `report.json` that the dataset program leaves beside train_file.
    training_config: the user's training_config.yaml; None = the method's default template.
    results_dir: gets `adapter/` (what is published), `checkpoints/`, `metrics.json`; a results_dir
        with checkpoints of the same run is resumed.
    gpus: how many the pod was given; a run that cannot use them all ends.
    """

    weights_dir: Path
    base_model: str
    base_revision: str
    train_file: Path
    dataset_digest: str = ""
    method: Literal["lora", "qlora"]
    training_config: Path | None = None
    results_dir: Path
    run: str = ""
    gpus: int = 0
