"""What the trainer is told, and what it answers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.contract.training_policy import TrainingPolicy

EVALUATION_FILE = "evaluation.jsonl"
AS_SERVED = "as served"
# How a pod of several is told which one it is, where the first one is to be found, and by what
# those of one Job know each other. The first is Kubernetes' own name, the next two are torchrun's.
POD_NUMBER, FIRST_HOST, FIRST_PORT = "JOB_COMPLETION_INDEX", "MASTER_ADDR", "MASTER_PORT"
JOB = "KAITOFLOW_JOB"
# With fewer, how sure a figure is is told beside it.
_ROWS_OF_NO_DOUBT = 20


@dataclass(frozen=True, kw_only=True)
class CheckpointsAway:
    """A registry that keeps the last checkpoint where the node that trains may go.

    reference: the image name that it has there. docker_config, insecure, storage_hosts: as for a
        push.
    """

    reference: str
    docker_config: Path | None = None
    insecure: tuple[str, ...] = ()
    storage_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """One tuning run.

    weights_dir: base model, tokenizer and chat template (Hugging Face layout).
    base_model, base_revision: the names written into the adapter's config and the model card.
    train_file: normalised rows, as the dataset program leaves them (`train.jsonl`).
    evaluation_file: normalised rows that are measured instead of some of train_file, and whose
        questions are not learned; None = there are none.
    dataset_digest: sha256 of the dataset's bytes, for the model card; empty = as told by the
        `report.json` that the dataset program leaves beside train_file.
    training_config: the user's training_config.yaml; None = the method's default template.
    results_dir: gets `adapter/` (what is published), `checkpoints/`, `metrics.json` and, of the
        rows held out, those that adapters may be measured on (`evaluation.jsonl`); a results_dir
        with checkpoints of the same run is resumed.
    gpus: how many the pod was given; a run that cannot use them all ends.
    processes: of each node that train together, each with a GPU of its own.
    nodes: whose processes train together; of more than one, the environment says which this is.
    nodes_patience_s: how long the first of them waits for the others.
    policy: what becomes of a training that goes wrong or on too long.
    away: where checkpoints are kept besides; None = results_dir outlives the pod.
    start: the folder of an adapter that is gone on from; None = it begins anew.
    start_name: its image or folder, as it is told of.
    serving: the folder of the adapter that this one may follow; what that has held out stays so.
    """

    weights_dir: Path
    base_model: str
    base_revision: str
    train_file: Path
    evaluation_file: Path | None = None
    dataset_digest: str = ""
    method: Literal["lora", "qlora"]
    training_config: Path | None = None
    results_dir: Path
    run: str = ""
    gpus: int = 0
    processes: int = 1
    nodes: int = 1
    nodes_patience_s: float = 1800.0
    policy: TrainingPolicy = field(default_factory=TrainingPolicy)
    away: CheckpointsAway | None = None
    start: Path | None = None
    start_name: str = ""
    serving: Path | None = None


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
    """The model before and after tuning, on answers that it was not trained on.

    gain_low, gain_high: the 95 % interval of what the loss has fallen by; None = of one row, which
        tells nothing, or of an older version's pod.
    loss_constant: of one answer to every question, by how often each was learned; None = of an
        older version's pod.
    right_after: how many answers are what the model itself would say, token by token, after tuning.
    right_constant: how many are the one that was learned most often; both None with loss_constant.
    base: the weights of the base model that it was measured on; AS_SERVED, or in which they differ.
    """

    rows: int
    loss_before: float
    loss_after: float
    gain_low: float | None = None
    gain_high: float | None = None
    loss_constant: float | None = None
    right_after: int | None = None
    right_constant: int | None = None
    base: str = ""
    sample: Sample | None = None
    answers: AnswersStopped | None = None

    @property
    def is_worse(self) -> bool:
        """Whether the answers are less likely after tuning than they were before."""
        return self.loss_after > self.loss_before

    @property
    def is_surely_worse(self) -> bool:
        """Whether that is no chance of which rows were held out."""
        return self.gain_high is not None and self.gain_high < 0

    @property
    def ignores_questions(self) -> bool:
        """Whether one answer to every question would do as well, by its loss and by its choice.

        Who is right more often and too sure of it where not loses more and has learned what is
        asked.
        """
        is_as_likely = self.loss_constant is not None and self.loss_after >= self.loss_constant
        return is_as_likely and (self.right_after or 0) <= (self.right_constant or 0)

    @property
    def verdict(self) -> str:
        """What the losses say, to be read behind them; empty = that it is better."""
        if not self.ignores_questions:
            return self._beside_base
        constant = f"no better than one answer to every question ({self.loss_constant:.3f})"
        return f"{self._beside_base}, {constant}"

    @property
    def _beside_base(self) -> str:
        worse = ", which is worse than before tuning" if self.is_worse else ""
        if self.base not in ("", AS_SERVED):
            worse += f", measured on weights that are {self.base}"
        if self.rows == 1:
            return f"{worse} (one row shows nothing)"
        if self.gain_low is None or self.gain_high is None:
            return worse
        interval = f"95 % interval of the gain {self.gain_low:+.3f} to {self.gain_high:+.3f}"
        if self.gain_low <= 0 <= self.gain_high:
            return f"{worse} ({interval}: that may be chance)"
        return f"{worse} ({interval})" if worse or self.rows < _ROWS_OF_NO_DOUBT else ""


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Where the rows went; cut: trained on without their ends.

    resembling: of those held out, nearly the same as one that is trained on, and so not measured.
        Pods of an older version tell 0.
    left_out: not trained on, since the evaluation data asks the same, or has nearly the same row.
    """

    trained: int
    held_out: int
    cut: int
    dropped: int
    resembling: int = 0
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class WeightCounts:
    """What of the base model was quantised and got adapters, counted once both were done.

    bits: of the quantised weights. adapted: weights of the layers that have an adapter.
    trained: weights of the adapter itself. bare_experts: weights of experts where none of them has
        an adapter; pods of an older version tell 0.
    """

    total: int
    quantized: int
    bits: int
    layers: int
    adapted: int
    trained: int
    bare_experts: int = 0

    def __str__(self) -> str:
        quantized = f"{self.bits}-bit: {_percent(self.quantized, self.total)} of the weights; "
        bare = f"none on its experts ({_percent(self.bare_experts, self.total)} of the weights); "
        return (
            f"{quantized if self.quantized else ''}adapters on {self.layers} layers, "
            f"{_percent(self.adapted, self.total)} of the weights; "
            f"{bare if self.bare_experts else ''}"
            f"{_percent(self.trained, self.total)} as many are trained"
        )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """A run that ended well; adapter: the folder to publish.

    held_out: None = no row was, or held_out_missing says why there are no figures.
    weights: None = of an older version's pod.
    notes: what the user should know of how the run went, as of a checkpoint that was damaged.
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
    weights: WeightCounts | None = None
    notes: tuple[str, ...] = ()
