"""The form of every verdict: a reason, and a message that says what to do."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.contract.errors import KaitoflowError, error_from_reason

_QUOTED_CHARACTERS = 400
RAISE_DEADLINE = (
    "raise KAITOFLOW_JOB_TIMEOUT_S (the chart's pods.jobTimeoutSeconds), or ask for less in one run"
)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with a pod or with what should make one.

    reason: KAITO's where KAITO has one; always the name of a class in `tasks.contract.errors`.
    is_final: nothing but a change by a person, or a new pod, helps: the step may fail now.
    """

    reason: str
    asked: str
    found: str
    fix: str
    is_final: bool

    @property
    def message(self) -> str:
        """The three parts in one line."""
        return str(diagnosed_error(self))


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One way to fail: the words by which it is known, the error it stands for, and the fix.

    words: a regular expression, in any case; empty where it is known otherwise.
    meaning: the words in plain language.
    """

    error: type[KaitoflowError]
    fix: str
    words: str = ""
    meaning: str = ""
    is_final: bool = True


def find_cause(causes: Iterable[Cause], said: str) -> Cause | None:
    """The first cause whose words are found in a message."""
    found = (cause for cause in causes if re.search(cause.words, said, re.IGNORECASE))
    return next(found, None)


def verdict(
    error: type[KaitoflowError], *, asked: str, found: str, fix: str, is_final: bool
) -> Diagnosis:
    """A diagnosis whose reason is an error's, with its three parts."""
    return Diagnosis(reason=error.__name__, asked=asked, found=found, fix=fix, is_final=is_final)


def diagnosed_error(diagnosis: Diagnosis) -> KaitoflowError:
    """The typed error that a step fails with."""
    return error_from_reason(
        diagnosis.reason, asked=diagnosis.asked, found=diagnosis.found, fix=diagnosis.fix
    )


def quoted(text: str) -> str:
    """Somebody else's message as a part of ours: on one line, cut where it gets long."""
    line = " ".join(text.split())
    if len(line) <= _QUOTED_CHARACTERS:
        return line
    return f"{line[:_QUOTED_CHARACTERS]}..."
