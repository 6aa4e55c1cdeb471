"""Ends a training that goes wrong or on too long, as its policy says, or tells of it once."""

import logging
import math
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.contract.errors import BudgetSpent, KaitoflowError, NothingLearned, TrainingDiverged
from tasks.contract.training_policy import AT_MOST, Policy, TrainingPolicy
from tasks.contract.units import duration
from tasks.tuning.pod.ranks import Ranks

log = logging.getLogger(__name__)

# Losses of single steps scatter: a mean of so many is looked at, and of twice as many steps at all.
_STEPS = 10
# A mean loss of so much more than at first is no scatter: a run that learns goes down.
_RISEN = 1.3
# A loss that has fallen by less than a hundredth over a run has stayed where it was.
_FALLEN = 0.99
# Gradients are clipped; one of so many times the usual norm that comes again and again says that
# the rate is too high or rows are broken.
_LARGE, _LARGE_TIMES = 10.0, 3
_LOWER = "lower TrainingArguments.learning_rate, raise warmup_ratio, or look for broken rows"


class Guard(TrainerCallback):
    """Looks at each logged step.

    notes: what a policy says to tell of, in words.
    """

    def __init__(self, policy: TrainingPolicy, notes: list[str], ranks: Ranks) -> None:
        self._policy = policy
        self._notes = notes
        self._ranks = ranks
        self._told: set[str] = set()
        self._started_s = time.monotonic()
        self._before_s = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count from here; a resumed run has trained for a while already."""
        del args, control
        self._started_s = time.monotonic()
        self._before_s = next(
            (line["seconds"] for line in reversed(state.log_history) if "seconds" in line), 0.0
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Judge a step. Raises: TrainingDiverged, BudgetSpent."""
        if not logs or "loss" not in logs:
            return
        elapsed_s = self._before_s + time.monotonic() - self._started_s
        state.log_history[-1]["seconds"] = round(elapsed_s, 1)
        where = (
            f"step {state.global_step} of {state.max_steps} at learning rate {args.learning_rate:g}"
        )
        if error := self._diverged(state, where):
            self._act(*error, state, control)
        elif self._is_late(elapsed_s):
            late = BudgetSpent(
                f"{AT_MOST} {self._allowed} was asked for",
                f"{where} was reached in {duration(elapsed_s)}",
                "allow more, or train fewer rows or epochs",
            )
            self._act("over-time", self._policy.over_time, late, state, control)

    def _is_late(self, elapsed_s: float) -> bool:
        """Whether the time is up; where one of several processes says so, all end."""
        time_s = self._policy.time_s
        return time_s is not None and any(self._ranks.any(elapsed_s > time_s))

    @property
    def _allowed(self) -> str:
        """The time that it may take, with what it was to cost where that is the reason."""
        assert self._policy.time_s is not None
        time, budget_usd = duration(self._policy.time_s), self._policy.budget_usd
        return f"${budget_usd:,.2f}, {time} of this machine," if budget_usd else time

    def _diverged(
        self, state: TrainerState, where: str
    ) -> tuple[str, Policy, TrainingDiverged] | None:
        steps = [line for line in state.log_history if "loss" in line]
        losses = [line["loss"] for line in steps]
        norms = [line["grad_norm"] for line in steps if "grad_norm" in line]
        asked, policy = f"{where} was trained", self._policy
        if not all(math.isfinite(each) for each in (losses[-1], *norms[-1:])):
            found = f"its loss is {losses[-1]}, its gradient's norm {norms[-1] if norms else '?'}"
            return "nan", policy.nan, TrainingDiverged(asked, found, _LOWER)
        if len(losses) < 2 * _STEPS:
            return None
        first, last = fmean(losses[:_STEPS]), fmean(losses[-_STEPS:])
        if last > _RISEN * first:
            found = f"the loss of the last {_STEPS} steps is {last:.3f}, of the first {first:.3f}"
            return "divergence", policy.divergence, TrainingDiverged(asked, found, _LOWER)
        usual = median(norms) if norms else 0.0
        large = [norm for norm in norms[-_STEPS:] if norm > _LARGE * usual]
        if len(large) >= _LARGE_TIMES:
            found = f"{len(large)} of {_STEPS} gradients have a norm above {_LARGE * usual:.1f}"
            return "grad-norm", policy.grad_norm, TrainingDiverged(asked, found, _LOWER)
        return None

    def _act(
        self,
        word: str,
        policy: Policy,
        error: KaitoflowError,
        state: TrainerState,
        control: TrainerControl,
    ) -> None:
        if policy == "warn":
            self._tell(word, f"{error.asked}: {error.found}")
            return
        has_best = state.best_model_checkpoint is not None
        if policy == "stop" or (word != "over-time" and not has_best):
            raise error
        kept = f"the best adapter of {state.best_metric:.3f} is kept" if has_best else "it is kept"
        self._tell(word, f"ended early, {kept}: {error.asked}; {error.found}")
        control.should_training_stop = True

    def _tell(self, word: str, note: str) -> None:
        if word not in self._told:
            self._told.add(word)
            log.warning("%s", note)
            self._notes.append(note)

    def expect_learned(self, losses: Sequence[float]) -> None:
        """Nothing, if the loss has fallen over a run, or the policy lets it pass with a note.

        Raises: NothingLearned.
        """
        if len(losses) < 2 * _STEPS:
            return
        first, last = fmean(losses[:_STEPS]), fmean(losses[-_STEPS:])
        if last < _FALLEN * first:
            return
        error = NothingLearned(
            f"{len(losses)} steps were trained",
            f"the loss has stayed where it was: {first:.3f} at first, {last:.3f} at last",
            "raise TrainingArguments.learning_rate or the epochs, or look at the rows",
        )
        if self._policy.flat == "stop":
            raise error
        self._tell("flat", f"{error.found}; {error.fix}")
