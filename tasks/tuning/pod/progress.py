"""What the trainer says while it works: one event a log step, and one a phase."""

import resource
import time
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.contract.podlog import emit
from tasks.estimate import GIB

Phase = Literal["load", "train", "save", "evaluate"]


def tell_phase(phase: Phase) -> None:
    """Say what happens now."""
    emit("progress", {"phase": phase})


def peak_memory_gib() -> float:
    """The most memory so far: of this process's GPU, or of the process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


class TellProgress(TrainerCallback):
    """Turns the trainer's log lines into progress events."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._first_step = 0
        self._first_tokens = 0
        self.tokens_per_s = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count from here; a resumed run has steps and tokens already."""
        del args, control
        self._started_s = time.monotonic()
        self._first_step = state.global_step
        self._first_tokens = state.num_input_tokens_seen

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Tell a training step; evaluations and the final summary are told elsewhere."""
        del args, control
        if not logs or "loss" not in logs:
            return
        elapsed_s = time.monotonic() - self._started_s
        self.tokens_per_s = (state.num_input_tokens_seen - self._first_tokens) / elapsed_s
        per_step_s = elapsed_s / max(1, state.global_step - self._first_step)
        emit(
            "progress",
            {
                "phase": "train",
                "step": state.global_step,
                "steps": state.max_steps,
                "loss": logs["loss"],
                "learning_rate": logs.get("learning_rate"),
                "grad_norm": logs.get("grad_norm"),
                "epoch": logs.get("epoch"),
                "tokens_per_s": round(self.tokens_per_s, 1),
                "eta_s": round(per_step_s * (state.max_steps - state.global_step), 1),
                "memory_gib": round(peak_memory_gib(), 2),
            },
        )
