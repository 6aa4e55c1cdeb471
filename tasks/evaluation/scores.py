"""What a gate's command has told of scores, beside what was measured of the same models. Pure."""

import json
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from tasks.contract.errors import GateCommandUnusable
from tasks.contract.gate import Gate
from tasks.contract.gate_command import GateCommand
from tasks.contract.programs.evaluation import EvaluationResult

_CANDIDATE, _SERVING, _BASE = "candidate", "serving", "base"
_EXAMPLE = '{"candidate": [0.5, 1], "serving": [0.5, 0], "base": [0, 0]}'
_SHOWN_CHARS = 200

Scores = tuple[float, ...] | float


def with_scores(
    measured: EvaluationResult, said: str, *, gate: Gate, command: GateCommand
) -> EvaluationResult:
    """What was measured, with the scores that a line tells of each model.

    Raises: GateCommandUnusable: they are not there, or cannot be compared.
    """
    needed = [_CANDIDATE]
    needed += [_SERVING] if measured.serving else []
    needed += [_BASE] if gate.floor or not measured.serving else []
    try:
        scores = _read(said, needed)
    except ValueError as problem:
        raise GateCommandUnusable(
            f"{command} was to score the candidate",
            f"{problem} ({_shown(said)})",
            f"have it print one line such as {_EXAMPLE}: a score of each row in one order, or one"
            " number each, of which more is better",
        ) from None
    serving = measured.serving and replace(measured.serving, scores=scores.get(_SERVING, ()))
    return replace(
        measured,
        candidate=replace(measured.candidate, scores=scores[_CANDIDATE]),
        serving=serving,
        base=replace(measured.base, scores=scores.get(_BASE, ())),
    )


def _read(said: str, needed: list[str]) -> Mapping[str, Scores]:
    """The scores by models; ValueError with what is wrong."""
    if not said:
        raise ValueError("it has printed no line that begins with {")
    try:
        told: dict[str, Any] = json.loads(said)  # what begins with { is an object, or nothing
    except (ValueError, RecursionError):
        raise ValueError("its line with scores is no JSON") from None
    if lacking := [name for name in needed if name not in told]:
        why = "; floor none in the gate does without base" if lacking == [_BASE] else ""
        raise ValueError(f"it tells no scores of {' and '.join(lacking)}{why}")
    scores = {name: _scores(told[name], name) for name in needed}
    if len({_rows(each) for each in scores.values()}) > 1:
        counts = (f"{_rows(each) or 'one number'} of {name}" for name, each in scores.items())
        raise ValueError(f"it tells scores of other rows of each ({', '.join(counts)})")
    return scores


def _scores(told: Any, name: str) -> Scores:
    each = told if isinstance(told, list) else [told]
    if not each:
        raise ValueError(f"its scores of {name} are none")
    for one in each:
        if not _is_number(one):
            raise ValueError(f"of {name} it tells {json.dumps(one)[:40]}, which is no number")
    return tuple(map(float, each)) if isinstance(told, list) else float(told)


def _is_number(one: Any) -> bool:
    return isinstance(one, int | float) and not isinstance(one, bool) and isfinite(one)


def _rows(scores: Scores) -> int:
    """How many rows they are of; 0 = one number for all of them together."""
    return 0 if isinstance(scores, float) else len(scores)


def _shown(said: str) -> str:
    return f"it said {said[:_SHOWN_CHARS]!r}" if said else "see kaitoflow logs --step evaluate"
