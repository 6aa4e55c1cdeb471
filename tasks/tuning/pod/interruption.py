"""When a run saves, and what it does when it is asked to stop.

transformers' own `enable_jit_checkpoint` waits three seconds and then exits as if all were well;
here SIGTERM acts between two passes, also those of an evaluation, saves the last step that is whole
and leaves with exit code 143.
"""

import logging
import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.contract.podlog import Stopped
from tasks.tuning.pod.generators import generators_now, put_back
from tasks.tuning.pod.ranks import Ranks

log = logging.getLogger(__name__)

# Of a run's time, at most, goes into checkpoints: a save is followed by 20 times as much training.
_TIMES_A_SAVE = 20
_SECONDS_BETWEEN_SAVES_LEAST = 60.0
# What a node that goes takes along is no more work than this, however long a save takes.
_SECONDS_BETWEEN_SAVES_MOST = 900.0
# A run in several processes hears of one signal twice: each is asked, and then by who started it.
_SAME_SIGNAL_S = 1.0


class StopNow(Exception):
    """A run was asked to stop and is between two passes."""


class SaveInTime(TrainerCallback):
    """Asks for a checkpoint every so often, and ends the run when it is asked to stop.

    Of several processes each does what one of them has reason to do.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.stop_requested = False
        self._ranks = ranks
        self._asked_s = 0.0
        self._last_save_s = time.monotonic()
        self._save_took_s = 0.0
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take over SIGTERM for as long as there is something to save."""
        del control
        self._before = signal.signal(signal.SIGTERM, self._request_stop)
        self._last_save_s = time.monotonic()
        # A checkpoint brings the intervals of its time along; those of now are asked for.
        state.compute_steps(args, state.max_steps)  # type: ignore[no-untyped-call]

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Give SIGTERM back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a checkpoint, and for the log line that belongs into it."""
        del args, state
        pause_s = max(_SECONDS_BETWEEN_SAVES_LEAST, _TIMES_A_SAVE * self._save_took_s)
        pause_s = min(pause_s, _SECONDS_BETWEEN_SAVES_MOST)
        is_due = self._ranks.is_first and time.monotonic() - self._last_save_s > pause_s
        self.stop_requested, is_due = self._ranks.any(self.stop_requested, is_due)
        if self.stop_requested or is_due:
            control.should_save = control.should_log = True
        if self.stop_requested:
            control.should_training_stop = True
            control.should_evaluate = False

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """A pass has ended. Raises: StopNow."""
        self._end_if_asked()

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """A batch of an evaluation has ended. Raises: StopNow."""
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        (self.stop_requested,) = self._ranks.any(self.stop_requested)
        if self.stop_requested:
            raise StopNow

    def saved(self, *, took_s: float) -> None:
        """Told by the trainer after each checkpoint, whoever asked for it."""
        self._save_took_s = took_s
        self._last_save_s = time.monotonic()

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.stop_requested and now_s - self._asked_s > _SAME_SIGNAL_S:
            raise Stopped  # asked twice: do not wait for the pass to end
        if not self.stop_requested:
            log.info("stop requested, saving a checkpoint first")
        self.stop_requested, self._asked_s = True, now_s


@dataclass(frozen=True)
class StepEnd:
    """What moves on within a step, as it was when the last whole step ended."""

    generators: dict[str, Any]
    tokens: int
    loss: torch.Tensor

    @classmethod
    def of(cls, state: TrainerState, loss: torch.Tensor) -> "StepEnd":
        """The state of now. Args: loss: the sum that is not logged yet."""
        return cls(generators_now(), int(state.num_input_tokens_seen), loss.clone())

    def put_back(self, state: TrainerState, loss: torch.Tensor) -> None:
        """Undo what the passes of the next step have done to it."""
        put_back(self.generators)
        state.num_input_tokens_seen = self.tokens
        loss.copy_(self.loss)
