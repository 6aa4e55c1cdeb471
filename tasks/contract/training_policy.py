"""What becomes of a training that goes wrong, or on too long.

A person writes it in one line, `divergence keep-best flat stop time 2h`: a word, and what is done
about it; what is not named keeps its default. `time` and `budget` say how much is too much.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.training_config import TrainingConfig
from tasks.contract.units import seconds_of

POLICY_ANNOTATION = "kaitoflow.io/training-policy"

# keep-best: the training ends, and the adapter is the one that was the best when evaluated.
Policy = Literal["warn", "stop", "keep-best"]

# The words by which a training is told to have taken all that it may.
AT_MOST = "a training of at most"

_EXAMPLE = "divergence keep-best flat stop time 2h"
_MAY_BE: Mapping[str, tuple[Policy, ...]] = {
    "nan": ("stop", "keep-best"),
    "divergence": ("warn", "stop", "keep-best"),
    "grad-norm": ("warn", "stop", "keep-best"),
    "flat": ("warn", "stop"),
    "worse": ("warn", "stop"),
    "over-time": ("warn", "stop", "keep-best"),
}
_LEAST_TIME_S = 60.0
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)USD")
_SPACED_BUDGET = re.compile(r"(\d) USD\b")


@dataclass(frozen=True, kw_only=True)
class TrainingPolicy:
    """What is done where.

    nan: the loss, or its gradient, is not a number. divergence: the loss is far above where it
    began. grad_norm: a gradient is far larger than those before it, again and again. flat: the loss
    ends where it began. worse: held-out answers are less likely than before, beyond chance.
    time_s: for which it may train; over_time: when that has passed. None = as long as it takes.
    budget_usd: that its machine may cost while it trains; None = whatever it costs.
    """

    nan: Policy = "stop"
    divergence: Policy = "stop"
    grad_norm: Policy = "warn"
    flat: Policy = "warn"
    worse: Policy = "stop"
    over_time: Policy = "keep-best"
    time_s: float | None = None
    budget_usd: float | None = None

    def within_budget(self, price_per_hour: float | None) -> "TrainingPolicy":
        """The policy on a machine of that price: its budget is the time that it buys.

        None = the machine has no price, and the budget no effect.
        """
        if self.budget_usd is None or not price_per_hour:
            return replace(self, budget_usd=None)
        bought_s = self.budget_usd / price_per_hour * 3600
        if self.time_s is not None and self.time_s <= bought_s:
            return replace(self, budget_usd=None)
        return replace(self, time_s=bought_s)


def parse_training_policy(text: str | None) -> TrainingPolicy:
    """The policy that the annotation's text describes; None or empty = the defaults.

    Raises: InvalidWorkspace.
    """
    words = _SPACED_BUDGET.sub(r"\1USD", text or "").split()
    if len(words) % 2:
        raise _refused(text, f"{words[-1]!r} stands alone")
    given = dict(zip(words[::2], words[1::2], strict=True))
    if len(given) < len(words) // 2:
        raise _refused(text, "a word stands there twice")
    time_s = seconds_of(given.pop("time")) if "time" in given else None
    if "time" in words[::2] and (time_s is None or time_s < _LEAST_TIME_S):
        raise _refused(text, "time must be a minute or more, as 90m or 2h")
    budget = _BUDGET.fullmatch(given.pop("budget")) if "budget" in given else None
    if "budget" in words[::2] and not (budget and float(budget[1])):
        raise _refused(text, "budget must be an amount above 0, as 5USD or 0.50USD")
    for word, policy in given.items():
        if word not in _MAY_BE:
            known_words = (*_MAY_BE, "time", "budget")
            near = difflib.get_close_matches(word, known_words, n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(known_words)}"
            raise _refused(text, f"there is no word {word!r} ({known})")
        if policy not in _MAY_BE[word]:
            raise _refused(text, f"{word} is {policy!r}, it must be {' or '.join(_MAY_BE[word])}")
    chosen = {word.replace("-", "_"): cast("Policy", policy) for word, policy in given.items()}
    budget_usd = float(budget[1]) if budget else None
    return TrainingPolicy(**chosen, time_s=time_s, budget_usd=budget_usd)


def expect_evaluated(text: str | None, config: TrainingConfig) -> None:
    """Nothing, if there will be a best adapter where the policy wants to keep it.

    When its time is up, a training that evaluates nothing keeps what it has learned.

    Raises: InvalidWorkspace.
    """
    policy = parse_training_policy(text)
    if config.training.get("eval_strategy", "no") != "no":
        return
    for word in ("nan", "divergence", "grad-norm"):
        if getattr(policy, word.replace("-", "_")) == "keep-best":
            raise InvalidWorkspace(
                f"annotation {POLICY_ANNOTATION} has {word} keep-best",
                "nothing is evaluated on the way, so that no adapter is known to be the best",
                f"set TrainingArguments.eval_strategy to steps or epoch, or write {word} stop",
            )


def _refused(text: str | None, found: str) -> InvalidWorkspace:
    return InvalidWorkspace(
        f"annotation {POLICY_ANNOTATION} is {text!r}",
        found,
        f'write pairs of a word and what is done, for example "{_EXAMPLE}"',
    )
