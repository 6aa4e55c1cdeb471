"""What the program that measures adapters is told, and what it answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.contract.judge import Judge


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """One measurement of a candidate, of what serves, and of the base model, on the same rows.

    weights_dir: base model, tokenizer and chat template.
    rows_file: normalised rows that none was trained on, as the trainer leaves them.
    candidate, serving: folders of adapters; serving None = no adapter serves.
    method, training_config: with which the candidate was tuned: its chat template and max_length.
    max_rows: that are measured, the first of the file.
    answers: of how many rows answers are written too; of those that ask a single question.
    max_new_tokens: of a written answer.
    gpus: how many the pod was given.
    judge: who grades the written answers; None = nobody does. judge_key_file: with the key that it
        asks for; no such file = none. allow_local_addresses: it may be inside a private network.
    answers_file: gets what each model answered; None = nobody reads it.
    """

    weights_dir: Path
    rows_file: Path
    candidate: Path
    serving: Path | None = None
    method: Literal["lora", "qlora"]
    training_config: Path | None = None
    max_rows: int = 128
    answers: int = 8
    max_new_tokens: int = 256
    gpus: int = 0
    judge: Judge | None = None
    judge_key_file: Path | None = None
    allow_local_addresses: bool = False
    answers_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """How many of the answers have which fault, whatever they are about.

    endless: did not stop by themselves. looping: the same few words again and again.
    foreign: in another script than the expected answer.
    """

    asked: int = 0
    empty: int = 0
    endless: int = 0
    looping: int = 0
    foreign: int = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model on all rows: the mean loss on each row's answers, in the rows' order.

    exact_match, rouge_l, grades: of each written answer, from 0 to 1; grades: the judge's.
    scores: the gate's command's, of whatever rows it has; one number = it tells no more.
    """

    losses: tuple[float, ...] = ()
    exact_match: tuple[float, ...] = ()
    rouge_l: tuple[float, ...] = ()
    grades: tuple[float, ...] = ()
    scores: tuple[float, ...] | float = ()
    sanity: Sanity = Sanity()


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """All models on the same rows; rows_digest: sha256 of the rows, which another run may equal.

    serving: None = no adapter serves. notes: why the comparison is not an even one.
    """

    rows_digest: str
    base: Measured
    candidate: Measured
    serving: Measured | None
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """A command of a user's own that scores what was measured.

    image: that it is run in; empty = it is a process of this machine.
    words: the program and its arguments. environment: by which it finds what it scores.
    """

    image: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """What a command has printed of scores: a line, as it is; empty = none."""

    said: str
