"""A training that goes wrong ends, is told, or keeps its best, as its policy says."""

import time
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from tasks.contract.errors import BudgetSpent, NothingLearned, TrainingDiverged
from tasks.contract.training_policy import Policy, TrainingPolicy
from tasks.tuning.pod.guard import Guard
from tasks.tuning.pod.ranks import Ranks

FALLING = [4.0 - step / 20 for step in range(40)]
RISING = [3.0 + step / 10 for step in range(40)]
STILL = [3.0 + step % 2 / 10 for step in range(40)]


class Arguments:
    learning_rate = 0.5


def run(
    policy: TrainingPolicy,
    losses: list[float],
    *,
    norms: list[float] | None = None,
    best: str | None = None,
) -> tuple[int, list[str]]:
    """After how many steps the training ended, and what was told."""
    notes: list[str] = []
    guard, arguments = Guard(policy, notes, Ranks()), Arguments()
    state, control = (
        TrainerState(max_steps=len(losses), best_model_checkpoint=best),
        TrainerControl(),
    )
    state.best_metric = 2.5
    given: Any = {"args": arguments, "state": state, "control": control}
    guard.on_train_begin(**given)
    for step, loss in enumerate(losses, start=1):
        state.global_step = step
        logs = {"loss": loss, "grad_norm": norms[step - 1] if norms else 1.0}
        state.log_history.append(logs | {"step": step})
        guard.on_log(**given, logs=logs)
        if control.should_training_stop:
            return step, notes
    guard.expect_learned(losses)
    return len(losses), notes


def test_a_training_that_learns_is_left_alone() -> None:
    assert run(TrainingPolicy(), FALLING) == (40, [])


@pytest.mark.parametrize("norms", [None, [1.0] * 12 + [float("nan")]])
def test_a_loss_or_gradient_that_is_no_number_ends_it_with_advice(
    norms: list[float] | None,
) -> None:
    losses = FALLING[:13] if norms else [3.0, float("nan")]
    with pytest.raises(TrainingDiverged, match=r"lower TrainingArguments\.learning_rate"):
        run(TrainingPolicy(), losses, norms=norms)


def test_a_loss_far_above_where_it_began_ends_it() -> None:
    with pytest.raises(
        TrainingDiverged, match=r"the loss of the last 10 steps is 4\.\d+, of the first 3"
    ):
        run(TrainingPolicy(), RISING)


def test_the_best_is_kept_where_there_is_one() -> None:
    keep = TrainingPolicy(divergence="keep-best", nan="keep-best")
    steps, (note,) = run(keep, RISING, best="checkpoint-4")
    assert steps < len(RISING)
    assert note.startswith("ended early, the best adapter of 2.500 is kept: step ")
    with pytest.raises(TrainingDiverged):
        run(keep, RISING)


@pytest.mark.parametrize("policy", ["warn", "stop"])
def test_a_loss_that_stays_where_it_was_is_told_or_ends_it(policy: Policy) -> None:
    if policy == "stop":
        with pytest.raises(NothingLearned, match="the loss has stayed where it was"):
            run(TrainingPolicy(flat=policy), STILL)
    else:
        assert "the loss has stayed where it was" in run(TrainingPolicy(flat=policy), STILL)[1][0]


def test_single_large_gradients_are_nothing_and_many_are_told_once() -> None:
    single = [1.0] * 40
    single[20] = 100.0
    assert run(TrainingPolicy(), FALLING, norms=single) == (40, [])
    many = [1.0] * 30 + [100.0] * 10
    steps, notes = run(TrainingPolicy(), FALLING, norms=many)
    assert steps == 40
    assert len(notes) == 1
    assert "gradients have a norm above 10.0" in notes[0]


@pytest.mark.parametrize("policy", ["warn", "stop", "keep-best"])
def test_a_training_whose_time_is_up_ends_with_what_it_has(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100_000, 60))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    asked = TrainingPolicy(time_s=600, over_time=policy)
    if policy == "stop":
        with pytest.raises(BudgetSpent, match="a training of at most 10 min was asked for"):
            run(asked, FALLING)
        return
    steps, (note,) = run(asked, FALLING)
    assert steps == (40 if policy == "warn" else 11)
    assert ("ended early, it is kept" in note) == (policy == "keep-best")


def test_money_that_is_spent_is_told_with_the_time_that_it_bought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 100_000, 60))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    asked = TrainingPolicy(budget_usd=0.5).within_budget(3.0)
    steps, (note,) = run(asked, FALLING)
    assert steps == 11
    assert "a training of at most $0.50, 10 min of this machine, was asked for" in note


def test_a_resumed_training_has_used_some_of_its_time() -> None:
    guard, notes = Guard(TrainingPolicy(time_s=600), [], Ranks()), TrainerState(max_steps=9)
    notes.log_history = [{"loss": 3.0, "seconds": 700.0}, {"loss": 3.0}]
    control: Any = TrainerControl()
    arguments: Any = Arguments()
    guard.on_train_begin(arguments, notes, control)
    guard.on_log(arguments, notes, control, logs={"loss": 3.0})
    assert control.should_training_stop
