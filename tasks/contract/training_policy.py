"""What becomes of a training that goes wrong, or on too long.

A person writes it in one line, `divergence keep-best flat stop time 2h`: a word, and what is done
about it; what is not named keeps its default.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.training_config import TrainingConfig
from tasks.contract.units import seconds_of

POLICY_ANNOTATION = "kaitoflow.io/training-policy"

# keep-best: the training ends, and the adapter is the one that was the best when evaluated.
Policy = Literal["warn", "stop", "keep-best"]

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


@dataclass(frozen=True, kw_only=True)
class TrainingPolicy:
    """What is done where.

    nan: the loss, or its gradient, is not a number. divergence: the loss is far above where it
    began. grad_norm: a gradient is far larger than those before it, again and again. flat: the loss
    ends where it began. worse: held-out answers are less likely than before, beyond chance.
    time_s: for which it may train; over_time: when that has passed. None = as long as it takes.
    """

    nan: Policy = "stop"
    divergence: Policy = "stop"
    grad_norm: Policy = "warn"
    flat: Policy = "warn"
    worse: Policy = "stop"
    over_time: Policy = "keep-best"
    time_s: float | None = None


def parse_training_policy(text: str | None) -> TrainingPolicy:
    """The policy that the annotation's text describes; None or empty = the defaults.

    Raises: InvalidWorkspace.
    """
    words = (text or "").split()
    if len(words) % 2:
        raise _refused(text, f"{words[-1]!r} stands alone")
    given = dict(zip(words[::2], words[1::2], strict=True))
    if len(given) < len(words) // 2:
        raise _refused(text, "a word stands there twice")
    time_s = seconds_of(given.pop("time")) if "time" in given else None
    if "time" in words[::2] and (time_s is None or time_s < _LEAST_TIME_S):
        raise _refused(text, "time must be a minute or more, as 90m or 2h")
    for word, policy in given.items():
        if word not in _MAY_BE:
            near = difflib.get_close_matches(word, (*_MAY_BE, "time"), n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(_MAY_BE)}, time"
            raise _refused(text, f"there is no word {word!r} ({known})")
        if policy not in _MAY_BE[word]:
            raise _refused(text, f"{word} is {policy!r}, it must be {' or '.join(_MAY_BE[word])}")
    chosen = {word.replace("-", "_"): cast("Policy", policy) for word, policy in given.items()}
    return TrainingPolicy(**chosen, time_s=time_s)


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
