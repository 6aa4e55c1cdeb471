"""What the trainer is told, and what it answers."""

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


@dataclass(frozen=True, kw_only=True)
class LossAt:
    """The training loss at one step."""

    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question of the held-out rows, with the answers before and after tuning.

    stopped_before, stopped_after: whether the answer came to its end by itself.
    """

    question: str
    before: str
    after: str
    reference: str = ""
    stopped_before: bool = False
    stopped_after: bool = False


@dataclass(frozen=True, kw_only=True)
class AnswersStopped:
    """How many answers came to their end by themselves, of the questions that were asked."""

    asked: int
    stopped_before: int
    stopped_after: int


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The model before and after tuning, on answers that it was not trained on."""

    rows: int
    loss_before: float
    loss_after: float
    sample: Sample | None = None
    answers: AnswersStopped | None = None


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Where the rows went; cut: trained on without their ends."""

    trained: int
    held_out: int
    cut: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """A run that ended well; adapter: the folder to publish.

    held_out: None = no row was, or held_out_missing says why there are no figures.
    """

    adapter: Path
    steps: int
    final_loss: float
    history: tuple[LossAt, ...]
    tokens: int
    rows: RowCounts
    held_out: HeldOut | None
    held_out_missing: str | None = None
    tokens_per_s: float
    peak_memory_gib: float
    seconds: float
