"""What becomes of a training that goes wrong is written in one line, or refused with the words."""

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.training_config import parse_training_config
from tasks.contract.training_policy import TrainingPolicy, expect_evaluated, parse_training_policy


@pytest.mark.parametrize("text", [None, "", "  "])
def test_without_a_word_the_defaults_hold(text: str | None) -> None:
    assert parse_training_policy(text) == TrainingPolicy()


def test_what_is_named_is_changed_and_the_rest_stays() -> None:
    assert parse_training_policy("grad-norm stop worse warn time 2h") == TrainingPolicy(
        grad_norm="stop", worse="warn", time_s=7200
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("flat", "'flat' stands alone"),
        ("flat stop flat warn", "a word stands there twice"),
        ("divergance stop", r"did you mean divergence\?"),
        ("xyz stop", "there are nan, divergence, grad-norm, flat, worse, over-time, time, budget"),
        ("nan warn", "nan is 'warn', it must be stop or keep-best"),
        ("worse keep-best", "worse is 'keep-best', it must be warn or stop"),
        ("time soon", "time must be a minute or more, as 90m or 2h"),
        ("budget lots", "budget must be an amount above 0, as 5USD"),
        ("budget 0USD", "budget must be an amount above 0, as 5USD"),
        ("time 5s", "time must be a minute or more, as 90m or 2h"),
    ],
)
def test_what_means_nothing_is_refused_with_what_would(text: str, told: str) -> None:
    with pytest.raises(InvalidWorkspace, match=told):
        parse_training_policy(text)


@pytest.mark.parametrize("text", ["flat stop budget 5 USD", "budget 5USD flat stop"])
def test_a_budget_is_an_amount(text: str) -> None:
    assert parse_training_policy(text) == TrainingPolicy(flat="stop", budget_usd=5)


@pytest.mark.parametrize(
    ("asked", "price_per_hour", "time_s", "budget_usd"),
    [
        ("budget 5USD", 2.5, 7200, 5),
        ("budget 5USD time 3h", 2.5, 7200, 5),
        ("budget 5USD time 1h", 2.5, 3600, None),
        ("budget 5USD", None, None, None),
        ("budget 5USD time 1h", None, 3600, None),
        ("time 1h", 2.5, 3600, None),
    ],
)
def test_a_budget_is_the_time_that_it_buys(
    asked: str, price_per_hour: float | None, time_s: float | None, budget_usd: float | None
) -> None:
    policy = parse_training_policy(asked).within_budget(price_per_hour)
    assert (policy.time_s, policy.budget_usd) == (time_s, budget_usd)


def test_the_best_is_kept_only_where_something_is_evaluated() -> None:
    plain = parse_training_config(None, method="lora")
    with pytest.raises(InvalidWorkspace, match="set TrainingArguments.eval_strategy"):
        expect_evaluated("divergence keep-best", plain)
    expect_evaluated("over-time keep-best time 2h", plain)
    evaluated = "training_config: {TrainingArguments: {eval_strategy: epoch}}"
    expect_evaluated("divergence keep-best", parse_training_config(evaluated, method="lora"))
