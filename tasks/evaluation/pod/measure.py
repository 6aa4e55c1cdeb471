"""A candidate, what serves and the base model, each on the same rows that none was trained on.

The base model is in memory once, in the number format in which it is served; adapters lie beside
each other on it and are switched.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contract.podlog import emit
from tasks.contract.programs.evaluation import EvaluationConfig, EvaluationResult, Measured
from tasks.contract.programs.serving import AdapterSource
from tasks.contract.training_config import TrainingConfig, parse_training_config
from tasks.estimate.positions import read_positions
from tasks.evaluation.pod.judging import Graded, grades
from tasks.evaluation.sanity import WrittenAnswer, look_at
from tasks.evaluation.texts import exact_match, rouge_l

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.tuning.pod.data import Example, Question, Row

# Written together, answers cost little more than one: the weights are read once a token.
_ANSWERS_AT_ONCE = 8
_UNEVEN = (
    "what serves was tuned with other rows held out (other evaluation data, another shuffle_seed "
    "or train_test_split, or it does not say which), so it may have learned some of these"
)
_CANDIDATE, _SERVING, _BASE = "candidate", "serving", "base"


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows that are measured; asked: those that ask one question, to write answers to."""

    examples: "list[list[Example]]"
    asked: "list[Row]"
    digest: str


def evaluate(config: EvaluationConfig) -> EvaluationResult:
    """The figures of each model; of no rows there are none.

    Raises: AdapterMismatch, AdapterInvalid, WeightsUnavailable, DatasetUnreadable, GpuIncompatible.
    """
    started_s = time.monotonic()
    from serving.model.adapters import load_adapters
    from serving.model.gpus import require_gpus
    from serving.model.loading import (
        find_device,
        load_base_model,
        preferred_dtype,
        quiet_libraries,
    )
    from tasks.tuning.pod.model import load_tuning_tokenizer

    quiet_libraries()
    require_gpus(config.gpus)
    text = config.training_config.read_text("utf-8") if config.training_config else None
    settings = parse_training_config(text, method=config.method)
    tokenizer = load_tuning_tokenizer(config.weights_dir, settings)
    rows = _read(config, settings, tokenizer)
    sources = [AdapterSource(_CANDIDATE, config.candidate)]
    if config.serving:
        sources.append(AdapterSource(_SERVING, config.serving))
    emit("progress", {"phase": "load"})
    base = load_base_model(config.weights_dir, dtype=preferred_dtype(find_device()))
    model: Any = load_adapters(base, sources, weights_dir=config.weights_dir)
    names = [None, *(source.name for source in sources)]
    judged = len(rows.asked) if config.judge else 0
    told = _Telling(steps=len(names) * (len(rows.examples) + judged))
    seen = {
        name: _measure(model, name, rows, tokenizer, config=config, told=told) for name in names
    }
    if config.answers_file:
        written = {name or _BASE: written for name, (_, written) in seen.items()}
        _keep_answers(config.answers_file, rows.asked, written)
    measured = {name: figures for name, (figures, _) in seen.items()}
    return EvaluationResult(
        rows_digest=rows.digest,
        base=measured[None],
        candidate=measured[_CANDIDATE],
        serving=measured.get(_SERVING),
        seconds=round(time.monotonic() - started_s, 1),
        notes=_notes(config),
    )


def _notes(config: EvaluationConfig) -> tuple[str, ...]:
    """Whether what serves was tuned with other rows held out, and so on some that are measured."""
    if config.serving is None or _held_out_by(config.serving) == _held_out_by(config.candidate):
        return ()
    return (_UNEVEN,)


def _held_out_by(adapter: Path) -> tuple[Any, ...] | None:
    """What decides which rows an adapter was not trained on; None = it does not say."""
    try:
        metrics = json.loads((adapter / "metrics.json").read_text("utf-8"))
        if aside := metrics.get("evaluation_data"):
            return (aside,)
        return metrics["settings"]["dataset"]["shuffle_seed"], metrics["held_out_share"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _read(
    config: EvaluationConfig, settings: TrainingConfig, tokenizer: "PreTrainedTokenizerBase"
) -> _Rows:
    from tasks.tuning.pod.data import question_of, read_rows, tokenise

    rows = read_rows(config.rows_file) if config.rows_file.stat().st_size else []
    max_length = min(settings.max_length, read_positions(config.weights_dir) or settings.max_length)
    taught = [
        (row, found.examples)
        for number, row in enumerate(rows[: config.max_rows], start=1)
        if (
            found := tokenise(
                [row], tokenizer, max_length=max_length, numbers=[number], may_be_silent=True
            )
        ).examples
    ]
    ids = [one.input_ids for _, examples in taught for one in examples]
    return _Rows(
        examples=[examples for _, examples in taught],
        asked=[row for row, _ in taught if question_of(row) is not None][: config.answers],
        digest=hashlib.sha256(repr(ids).encode()).hexdigest(),
    )


class _Telling:
    """Counts the rows of all models, and tells each."""

    def __init__(self, *, steps: int) -> None:
        self._step, self._steps = 0, steps

    def row_done(self) -> None:
        self._step += 1
        emit("progress", {"phase": "evaluate", "step": self._step, "steps": self._steps})


def _measure(
    model: Any,
    name: str | None,
    rows: _Rows,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    config: EvaluationConfig,
    told: _Telling,
) -> tuple[Measured, list[WrittenAnswer]]:
    """The figures of an adapter, or, with no name, of the base model; and what it wrote."""
    with _switched(model, name):
        losses = [_row_loss(model, examples, told.row_done) for examples in rows.examples]
        written = _write(model, tokenizer, rows.asked, max_new_tokens=config.max_new_tokens)
    figures = Measured(
        losses=tuple(losses),
        exact_match=tuple(exact_match(one.text, one.expected) for one in written),
        rouge_l=tuple(round(rouge_l(one.text, one.expected), 4) for one in written),
        grades=_graded(rows.asked, written, config=config, told=told) if config.judge else (),
        sanity=look_at(written),
    )
    return figures, written


def _keep_answers(
    file: Path, asked: "Sequence[Row]", written: Mapping[str, Sequence[WrittenAnswer]]
) -> None:
    """Leave each row with what was expected and what each model wrote, for a command to score."""
    from tasks.tuning.pod.data import question_of

    with file.open("w", encoding="utf-8") as lines:
        for at, row in enumerate(asked):
            line = {
                "question": _as_text(question_of(row)),
                "expected": written[_BASE][at].expected,
                "answers": {name: each[at].text for name, each in written.items()},
                "row": row,
            }
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def _graded(
    asked: "Sequence[Row]",
    written: Sequence[WrittenAnswer],
    *,
    config: EvaluationConfig,
    told: _Telling,
) -> tuple[float, ...]:
    from tasks.tuning.pod.data import question_of

    answers = [
        Graded(question=_as_text(question_of(row)), expected=one.expected, text=one.text)
        for row, one in zip(asked, written, strict=True)
    ]
    return grades(config, answers, done=told.row_done)


def _as_text(question: "Question | str | None") -> str:
    """A question as a judge reads it: of a conversation each turn, with who says it."""
    if question is None or isinstance(question, str):
        return question or ""
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in question.messages)


def _switched(model: Any, name: str | None) -> AbstractContextManager[Any]:
    from serving.model.adapter_names import adapter_key

    if name is None:
        without: AbstractContextManager[Any] = model.disable_adapter()
        return without
    model.set_adapter(adapter_key(name))
    return nullcontext()


def _row_loss(model: Any, examples: "Sequence[Example]", done: Callable[[], None]) -> float:
    """The mean loss over all answer tokens of a row."""
    from tasks.tuning.pod.heldout import score

    total = sum(score(model, one).loss for one in examples)
    done()
    return round(total / sum(one.answer_tokens for one in examples), 4)


def _write(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    asked: "Sequence[Row]",
    *,
    max_new_tokens: int,
) -> list[WrittenAnswer]:
    from tasks.tuning.pod.data import answer_of, question_of
    from tasks.tuning.pod.heldout import generate

    questions = [question for row in asked if (question := question_of(row)) is not None]
    answers = [
        answer
        for start in range(0, len(questions), _ANSWERS_AT_ONCE)
        for answer in generate(
            model,
            tokenizer,
            questions[start : start + _ANSWERS_AT_ONCE],
            max_new_tokens=max_new_tokens,
        )
    ]
    return [
        WrittenAnswer(text=answer.text, expected=answer_of(row), stopped=answer.stopped)
        for row, answer in zip(asked, answers, strict=True)
    ]
