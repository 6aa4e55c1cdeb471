"""TRL's SFTTrainer with what it lacks here.

Batches by length, a cheap loss on CPUs, and checkpoints that say when they are whole.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.tuning.pod.answer_loss import has_plain_head, summed_answer_loss
from tasks.tuning.pod.batches import BatchPlan, RowsByLength
from tasks.tuning.pod.checkpoints import SaveInTime, seal
from tasks.tuning.pod.data import Example
from tasks.tuning.pod.progress import TellProgress

if TYPE_CHECKING:
    from peft import LoraConfig

# Up to this many steps every one is told; more, every tenth.
_STEPS_TOLD_SINGLY = 200
# The first step of a warm-up has the rate 0: of a short run that is a step thrown away.
_STEPS_WORTH_WARMING_UP_FOR = 100


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What is settled about a run before the trainer is built.

    run: fingerprint of everything that decides the outcome; checkpoints of another are not resumed.
    dtype: what matrix products are computed in.
    """

    run: str
    checkpoints_dir: Path
    batches: BatchPlan
    device: str
    dtype: torch.dtype
    gradient_checkpointing: bool


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
    ) -> None:
        self.plan = plan
        self._packs = bool(args.packing)
        self._lengths = [len(one.input_ids) for one in train]
        self.saving = SaveInTime()
        self.telling = TellProgress()
        super().__init__(
            model=model,
            args=args,
            train_dataset=_dataset(train),
            eval_dataset=_dataset(held_out) if args.eval_strategy != "no" and held_out else None,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[self.saving, self.telling],
        )
        self.remove_callback(PrinterCallback)
        # TRL makes a quantised model's adapter bfloat16, in which small updates at the end of a
        # schedule are lost. Products are in 16 bit all the same, by autocast.
        for parameter in self.adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        base = self.adapted.get_base_model()
        self._head = base.get_output_embeddings()
        self._scores_answers_only = (
            plan.device == "cpu"
            and has_plain_head(self._head, base.config)
            and not self.aux_loss_enabled
            and args.loss_type == "nll"
            and not args.label_smoothing_factor
        )

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
            seen = {key: value for key, value in inputs.items() if key != "labels"}
            backbone = self.adapted.get_base_model().base_model
            hidden = backbone(**seen, use_cache=False).last_hidden_state
        labels = inputs["labels"]
        total = summed_answer_loss(hidden, labels, self._head.weight)
        count = num_items_in_batch
        if count is None:
            count = (labels[:, 1:] >= 0).sum()
        return total / torch.as_tensor(count).clamp(min=1)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card for checkpoints: the adapter gets its card when it is done."""

    def computing(self) -> AbstractContextManager[Any]:
        """A context in which products on a CPU are in the run's number format."""
        # On GPUs accelerate does it.
        if self.plan.device != "cpu" or self.plan.dtype == torch.float32:
            return nullcontext()
        return torch.autocast("cpu", dtype=self.plan.dtype)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self._packs:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return RowsByLength(self._lengths, batch=self.args.train_batch_size, seed=seed)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        started_s = time.monotonic()
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        checkpoint = self.plan.checkpoints_dir / f"checkpoint-{self.state.global_step}"
        seal(checkpoint, run=self.plan.run)
        self.saving.saved(took_s=time.monotonic() - started_s)


def sft_arguments(config: TrainingConfig, plan: RunPlan, *, steps: int) -> SFTConfig:
    """TRL's arguments: the user's, else ours, else TRL's.

    Raises: InvalidTuningConfig: a combination that TRL refuses.
    """
    on_gpu = plan.device != "cpu"
    ours: dict[str, Any] = {
        "logging_steps": 1 if steps <= _STEPS_TOLD_SINGLY else 10,
        "save_strategy": "no",
        "save_total_limit": 2,
        "seed": 42,
        "per_device_eval_batch_size": plan.batches.rows_per_pass,
    }
    settled: dict[str, Any] = {
        "output_dir": str(plan.checkpoints_dir),
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
    if "warmup_steps" not in config.given and steps < _STEPS_WORTH_WARMING_UP_FOR:
        settled["warmup_steps"] = 0
    try:
        return SFTConfig(**ours | config.training | settled)
    except (TypeError, ValueError) as error:
        raise InvalidTuningConfig(
            f"TrainingArguments were given {config.training}",
            f"trl refuses them ({error})",
            "correct the section",
        ) from error


def _dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [one.input_ids for one in examples],
            "labels": [one.labels for one in examples],
        }
    )
