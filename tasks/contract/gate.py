"""What a retuned adapter has to show before it takes the place of the one that serves.

A person writes it in one line, `loss margin 0.02 rows 32 floor base`: the metric, and then, in any
order, what is to be other than the default.
"""

import difflib
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from tasks.contract.errors import InvalidWorkspace

GATE_ANNOTATION = "kaitoflow.io/gate"
_GRAMMAR = "METRIC [margin NUMBER] [rows NUMBER] [floor base|none]"
_EXAMPLE = "loss margin 0.02 rows 32 floor base"
_WORDS = ("margin", "rows", "floor")
_MOST_ROWS = 1024
# Harnesses that people know by name, each of which a command runs.
_RUN_BY_A_COMMAND = ("lm-eval", "lm_eval", "lighteval")
_BY_A_COMMAND = (
    '; or "command rows 32", and in kaitoflow.io/gate-command an image that has it and what is'
    " to be run there (docs/retuning.md has one for lm-eval)"
)


class Metric(StrEnum):
    """What of an answer is measured, each row for itself."""

    LOSS = "loss"
    EXACT_MATCH = "exact-match"
    ROUGE_L = "rouge-l"
    JUDGE = "judge"
    COMMAND = "command"

    @property
    def lower_is_better(self) -> bool:
        """Whether less of it is a better answer."""
        return self is Metric.LOSS

    @property
    def figure(self) -> str:
        """What of an answer it is, in a sentence."""
        return {Metric.JUDGE: "grade", Metric.COMMAND: "score"}.get(self, self.value)

    @property
    def needs_answers(self) -> bool:
        """Whether answers have to be written for it, which takes far longer than reading them."""
        return self is not Metric.LOSS


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What has to be shown, and on how many rows.

    margin: by how much it has to be better, in the metric's own unit; negative = it may be so
        much worse. rows: with fewer, no difference is believed.
    floor: whether it has to be no worse than the base model without any adapter.
    """

    metric: Metric = Metric.LOSS
    margin: float = 0.0
    rows: int = 20
    floor: bool = True

    def __str__(self) -> str:
        floor = "base" if self.floor else "none"
        return f"{self.metric} margin {self.margin:g} rows {self.rows} floor {floor}"


def parse_gate(text: str | None) -> Gate:
    """The gate that the annotation's text describes; None or empty = the defaults.

    Raises: InvalidWorkspace.
    """
    words = (text or "").split()
    if not words:
        return Gate()
    metric, rest = _metric(words[0], text), words[1:]
    if len(rest) % 2:
        raise _refused(text, f"{rest[-1]!r} stands alone")
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    for word in given:
        if word not in _WORDS:
            raise _refused(text, f"there is no word {word!r}{_near(word, _WORDS)}")
    if len(given) < len(rest) // 2:
        raise _refused(text, "a word stands there twice")
    default = Gate()
    return Gate(
        metric=metric,
        margin=_margin(given["margin"], text) if "margin" in given else default.margin,
        rows=_rows(given["rows"], text) if "rows" in given else default.rows,
        floor=_floor(given["floor"], text) if "floor" in given else default.floor,
    )


def _metric(word: str, text: str | None) -> Metric:
    try:
        return Metric(word)
    except ValueError:
        known = [metric.value for metric in Metric]
        if word.lower() in _RUN_BY_A_COMMAND:
            found = f"{word} is no metric by itself, the metrics are {', '.join(known)}"
            raise _refused(text, found, instead=_BY_A_COMMAND) from None
        found = f"there is no metric {word!r}{_near(word, known)}"
        raise _refused(text, found) from None


def _margin(word: str, text: str | None) -> float:
    margin = _number(word)
    if margin is None:
        raise _refused(text, f"margin is {word!r}, it must be a number")
    return margin


def _rows(word: str, text: str | None) -> int:
    rows = _number(word)
    if rows is None or not rows.is_integer() or not 2 <= rows <= _MOST_ROWS:
        raise _refused(text, f"rows is {word!r}, it must be a whole number from 2 to {_MOST_ROWS}")
    return int(rows)


def _floor(word: str, text: str | None) -> bool:
    if word not in ("base", "none"):
        raise _refused(text, f"floor is {word!r}, it must be base or none")
    return word == "base"


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _near(word: str, known: "list[str] | tuple[str, ...]") -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (there are {', '.join(known)})"


def _refused(text: str | None, found: str, *, instead: str = "") -> InvalidWorkspace:
    return InvalidWorkspace(
        f"annotation {GATE_ANNOTATION} is {text!r}",
        found,
        f'write {_GRAMMAR}, for example "{_EXAMPLE}"{instead}',
    )
