"""TRL's SFTTrainer with what it lacks here.

Batches by length, a cheap loss on CPUs, and checkpoints that say when they are whole.
"""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.trainer_pt_utils import safe_globals
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.podlog import is_disk_full
from tasks.contract.programs.tuning import CheckpointsAway
from tasks.contract.training_config import TrainingConfig
from tasks.contract.training_policy import TrainingPolicy
from tasks.tuning.pod.answer_loss import NO_LOSS, has_plain_head, summed_answer_loss
from tasks.tuning.pod.away import send
from tasks.tuning.pod.batches import RowsByLength, SharedRows
from tasks.tuning.pod.checkpoints import drop_oldest, keep_latest, seal
from tasks.tuning.pod.data import Example
from tasks.tuning.pod.generators import generators_now, put_back
from tasks.tuning.pod.guard import Guard
from tasks.tuning.pod.interruption import SaveInTime, StepEnd, StopNow
from tasks.tuning.pod.planning import SEED, RunPlan
from tasks.tuning.pod.progress import TellProgress
from tasks.tuning.pod.ranks import Ranks

if TYPE_CHECKING:
    from peft import LoraConfig

log = logging.getLogger(__name__)

# Up to this many steps every one is told; more, every tenth.
_STEPS_TOLD_SINGLY = 200
# The first step of a warm-up has the rate 0: of a short run that is a step thrown away.
_STEPS_WORTH_WARMING_UP_FOR = 100
# Between evaluations, as transformers has it where nothing is said.
_EVAL_STEPS = 500
# By how much two ways to one loss may differ, by the bytes of a number.
_LOSS_TOLERANCE = {2: 0.01, 4: 0.001}


class AnswerTrainer(SFTTrainer):
    """An SFTTrainer for tokenised examples."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        args: SFTConfig,
        plan: RunPlan,
        train: Sequence[Example],
        held_out: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        lora: "LoraConfig",
        policy: TrainingPolicy,
        ranks: Ranks | None = None,
        away: CheckpointsAway | None = None,
    ) -> None:
        self.plan = plan
        self._away, self._has_missed = away, False
        self.ranks = ranks or Ranks()
        self._packs = bool(args.packing)
        self._lengths = [len(one.input_ids) for one in train]
        self._order: RowsByLength | SharedRows | None = None
        self.saving = SaveInTime(self.ranks)
        self.notes: list[str] = []
        self.peak_memory_gib = 0.0
        self.telling = TellProgress()
        self.guard = Guard(policy, self.notes, self.ranks)
        super().__init__(
            model=model,
            args=args,
            train_dataset=_dataset([*train, _blank(train[0])] if self.ranks.count > 1 else train),
            eval_dataset=_dataset(held_out) if args.eval_strategy != "no" and held_out else None,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[self.saving, self.telling, self.guard],
        )
        self.remove_callback(PrinterCallback)
        # TRL makes a quantised model's adapter bfloat16, in which small updates at the end of a
        # schedule are lost. Products are in 16 bit all the same, by autocast.
        for parameter in self.adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if self.ranks.count > 1:
            # Or it wraps the model for an average of its own (see `Ranks`).
            prepare = self.accelerator.prepare_model
            self.accelerator.prepare_model = partial(prepare, evaluation_mode=True)
        base = self.adapted.get_base_model()
        self._head = base.get_output_embeddings()
        self._scores_answers_only = (
            plan.device == "cpu"
            and has_plain_head(self._head, base.config)
            and not self.aux_loss_enabled
            and args.loss_type == "nll"
            and not args.label_smoothing_factor
        )
        if self._scores_answers_only:
            self._expect_own_loss(min(train, key=lambda one: len(one.input_ids)))

    def go_on_alone(self) -> None:
        """Leave the other processes, which end here: what follows training is one's work."""
        if self.ranks.count > 1:
            self.ranks.part()
            self.ranks = Ranks()
            self.create_accelerator_and_postprocess()

    @property
    def adapted(self) -> Any:
        """The model with its adapter: a PeftModel, which transformers does not know to be one."""
        return self.model

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - the signature is transformers'
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean loss over answer tokens, `num_items_in_batch` of them in the whole step."""
        with self.computing():
            if return_outputs or not self._scores_answers_only:
                return super().compute_loss(  # type: ignore[no-untyped-call]
                    model, inputs, return_outputs, num_items_in_batch
                )
        total = self._summed_loss(inputs)
        if num_items_in_batch is None:
            return total / (inputs["labels"][:, 1:] >= 0).sum().clamp(min=1)
        # Of the tokens of all processes each has its share, and all of them are averaged.
        share = self.accelerator.num_processes / torch.as_tensor(num_items_in_batch).clamp(min=1)
        return total * share

    def _summed_loss(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        seen = {key: value for key, value in inputs.items() if key != "labels"}
        with self.computing():
            backbone = self.adapted.get_base_model().base_model
            hidden = backbone(**seen, use_cache=False).last_hidden_state
        return summed_answer_loss(hidden, inputs["labels"], self._head.weight)

    def _expect_own_loss(self, example: Example) -> None:
        """Leave the loss to TRL where ours is not what the model itself says of an example.

        Between hidden states and loss, a head may do what no list of ours knows of.
        """
        inputs = {name: torch.tensor([getattr(example, name)]) for name in ("input_ids", "labels")}
        was_training = self.adapted.training
        self.adapted.eval()
        with torch.no_grad():
            ours = float(self._summed_loss(inputs)) / example.answer_tokens
            with self.computing():
                theirs = float(self.adapted(**inputs, use_cache=False).loss)
        self.adapted.train(was_training)
        if not isclose(ours, theirs, rel_tol=_LOSS_TOLERANCE[self.plan.dtype.itemsize]):
            self._scores_answers_only = False
            note = f"the loss is the model's own ({theirs:.3f} of a row): ours says {ours:.3f}"
            log.warning("%s", note)
            self.notes.append(note)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of one pass; after a step's last one the gradients are of all processes."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self.accelerator.sync_gradients:
            self.ranks.average(self._trained())
        return loss

    def _trained(self) -> list[torch.nn.Parameter]:
        return [each for each in self.adapted.parameters() if each.requires_grad]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card for checkpoints: the adapter gets its card when it is done."""

    def computing(self) -> AbstractContextManager[Any]:
        """A context in which products on a CPU are in the run's number format."""
        # On GPUs accelerate does it.
        if self.plan.device != "cpu" or self.plan.dtype == torch.float32:
            return nullcontext()
        return torch.autocast("cpu", dtype=self.plan.dtype)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; a run that is asked to stop is saved as of its last whole step."""
        self.ranks.begin_alike(self._trained())
        try:
            return super().train(*args, **kwargs)
        except StopNow:
            self._save_last_step()
            self.saving.on_train_end()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The metrics of the held-out rows; the run goes on as if nobody had looked."""
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self._packs:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        rows = RowsByLength(self._lengths, batch=self.plan.batches.rows_alike, seed=seed)
        self._order = SharedRows(rows, self.plan.batches) if self.ranks.count > 1 else rows
        return self._order

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        # accelerate tells no sampler whose batches it both shares out and skips, as after a resume.
        if self._order is not None:
            self._order.set_epoch(kwargs["epoch"])
        if self.state.global_step >= self.state.max_steps:
            # Gone on from its last step, within an epoch: transformers would take one more.
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        # Rows without an answer are blank ones, and no row of the dataset.
        counts = (inputs["labels"] != NO_LOSS).any(1, keepdim=True)
        mask = inputs.get("attention_mask")
        seen = inputs if mask is None else inputs | {"attention_mask": mask * counts}
        super()._track_num_input_tokens(seen)  # type: ignore[no-untyped-call]

    def store_flos(self) -> None:
        """Count no operations of several processes: the first one saves without the others."""
        if self.ranks.count == 1:
            super().store_flos()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._away and self.control.should_training_stop:
            # What follows may be the end of this node: another one then only compares.
            self.control.should_save = True
        self._step_end = StepEnd.of(self.state, self._tr_loss)
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._step_end = StepEnd.of(self.state, self._tr_loss)

    def _save_last_step(self) -> None:
        if self.state.global_step == self._initial_global_step:
            return  # what the run began from is there still
        self._step_end.put_back(self.state, self._tr_loss)
        self.control.should_log = self.control.should_save = True
        self.control.should_evaluate = False
        epoch = float(self.state.epoch or 0)
        super()._maybe_log_save_evaluate(
            self._tr_loss, None, self.adapted, None, epoch, None, time.time()
        )

    def _save_rng_state(self, output_dir: str) -> None:
        if self.ranks.count == 1:
            super()._save_rng_state(output_dir)
        else:  # as a run of one process has it, which may go on from here
            torch.save(generators_now(), Path(output_dir) / "rng_state.pth")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.ranks.count == 1:
            super()._load_rng_state(checkpoint)
            return
        with safe_globals():  # type: ignore[no-untyped-call]
            put_back(torch.load(Path(checkpoint) / "rng_state.pth", weights_only=True))
        self.ranks.draw_apart()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.ranks.is_first:
            self._save_whole(model, trial)

    def _save_whole(self, model: Any, trial: Any) -> None:
        started_s = time.monotonic()
        checkpoint = self.plan.checkpoints_dir / f"checkpoint-{self.state.global_step}"
        while True:
            shutil.rmtree(checkpoint, ignore_errors=True)
            try:
                super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
                self._seal(checkpoint)
                break
            except Exception as error:
                if not is_disk_full(error):
                    raise
                shutil.rmtree(checkpoint, ignore_errors=True)
                if not self._make_room(checkpoint):
                    break
        if self._away and checkpoint.is_dir() and (missed := send(checkpoint, self._away)):
            self._tell_missed(missed)
        self.saving.saved(took_s=time.monotonic() - started_s)

    def _tell_missed(self, missed: str) -> None:
        """Tell the first time that a checkpoint stayed here alone; the log has all of them."""
        if not self._has_missed:
            self.notes.append(missed)
        self._has_missed = True

    def _seal(self, checkpoint: Path) -> None:
        batches = self.plan.batches
        seal(
            checkpoint,
            course=self.plan.course,
            rows_per_step=batches.rows_per_step,
            rows_alike=batches.rows_alike,
        )
        best = self.state.best_model_checkpoint
        keep_latest(
            checkpoint,
            count=self.plan.checkpoints_kept,
            course=self.plan.course,
            best=Path(best) if best else None,
        )

    def _make_room(self, wanted: Path) -> bool:
        """Whether a checkpoint was dropped for the one that found the disk full; tells either."""
        dropped = drop_oldest(self.plan.checkpoints_dir, besides=wanted)
        if dropped:
            note = f"the disk was full: {dropped.name} was dropped for {wanted.name}"
        else:
            note = f"the disk was full: {wanted.name} could not be kept, training went on without"
        log.warning("%s", note)
        self.notes.append(note)
        return dropped is not None


def without_effect(
    config: TrainingConfig, *, on_gpu: bool, held_out: int
) -> tuple[TrainingConfig, list[str]]:
    """The configuration without what this run cannot follow, and what is to be told of it.

    held_out: rows that evaluations can be made of.
    """
    training = dict(config.training)
    for_gpus = () if on_gpu else ("torch_compile", "activation_offloading")
    notes = [
        f"TrainingArguments.{name} has no effect on a CPU"
        for name in for_gpus
        if training.pop(name, False)
    ]
    if not held_out and training.get("eval_strategy", "no") != "no":
        notes.append("TrainingArguments.eval_strategy has no effect: no rows are held out")
        for name in ("eval_strategy", "eval_steps", "eval_delay", "load_best_model_at_end"):
            training.pop(name, None)
        if training.get("save_strategy") == "best":
            training["save_strategy"] = "no"
    return replace(config, training=training), notes


def sft_arguments(config: TrainingConfig, plan: RunPlan, *, steps: int) -> SFTConfig:
    """TRL's arguments: the user's, else ours, else TRL's.

    Raises: InvalidTuningConfig: a combination that TRL refuses.
    """
    on_gpu = plan.device != "cpu"
    ours: dict[str, Any] = {
        "logging_steps": 1 if steps <= _STEPS_TOLD_SINGLY else 10,
        "save_strategy": "no",
        "seed": SEED,
        "per_device_eval_batch_size": plan.batches.rows_per_pass,
    }
    settled: dict[str, Any] = {
        "output_dir": str(plan.checkpoints_dir),
        # Older ones go once a new one is sealed, which transformers knows nothing of.
        "save_total_limit": None,
        "per_device_train_batch_size": plan.batches.rows_per_pass,
        "gradient_accumulation_steps": plan.batches.passes_per_step,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "bf16": on_gpu and plan.dtype == torch.bfloat16,
        "fp16": on_gpu and plan.dtype == torch.float16,
        "use_cpu": not on_gpu,
        "dataset_kwargs": None
        if config.training.get("packing")
        else {"skip_prepare_dataset": True},
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "non_padding",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "report_to": "none",
    }
    if config.keeps_best:
        settled["load_best_model_at_end"] = True
        if "save_strategy" not in config.given:
            settled["save_strategy"] = config.training["eval_strategy"]
            settled["save_steps"] = config.training.get("eval_steps", _EVAL_STEPS)
    if "warmup_steps" not in config.given and steps < _STEPS_WORTH_WARMING_UP_FOR:
        settled["warmup_steps"] = 0
    try:
        args = SFTConfig(**ours | config.training | settled)
    except (TypeError, ValueError) as error:
        raise InvalidTuningConfig(
            f"TrainingArguments were given {config.training}",
            f"trl refuses them ({error})",
            "correct the section",
        ) from error
    if on_gpu:
        # transformers counts every GPU that it sees, and would wrap the model in DataParallel,
        # which TRL refuses; there is no setting for it.
        args._n_gpu = 1  # noqa: SLF001
    return args


def _blank(example: Example) -> Example:
    """A row of two tokens from which nothing is learned."""
    return replace(example, input_ids=example.input_ids[:2], labels=[NO_LOSS, NO_LOSS])


def _dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [one.input_ids for one in examples],
            "labels": [one.labels for one in examples],
        }
    )
