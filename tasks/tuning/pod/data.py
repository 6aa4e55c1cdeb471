"""Normalised rows -> token ids and labels. The loss is on what the model should say, and no more.

    messages              every assistant turn, with the token that ends it
    prompt, completion    the completion, with the end token
    text                  everything, with the end token

Works for any chat template, with or without `{% generation %}` marks: a conversation is rendered up
to each assistant turn and once as a whole; what the two do not share is what the assistant says.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tasks.contract.errors import DatasetRowsInvalid, DatasetUnreadable, InvalidTuningConfig
from tasks.contract.training_config import DatasetSettings

NO_LOSS = -100
# Fewer rows than this are all trained on: a tenth of them would say little.
_ROWS_WORTH_HOLDING_OUT = 50
_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.1, 64
_PROBE = "kaitoflow"
_TEMPLATE_FIX = (
    "give each answer a row of its own with what was said before it, or set "
    "ModelConfig.chat_template to one that renders a message always alike"
)

Row = dict[str, Any]
T = TypeVar("T")
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Example:
    """One tokenised row; labels: the id where there is loss, else NO_LOSS. Equally long."""

    input_ids: list[int]
    labels: list[int]

    @property
    def answer_tokens(self) -> int:
        """Tokens with loss. The first token of a row is never predicted."""
        return sum(label != NO_LOSS for label in self.labels[1:])


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Tokenised rows that teach something; cut: over max_length, dropped: no answer was left."""

    examples: list[Example]
    cut: int
    dropped: int


def read_rows(train_file: Path) -> list[Row]:
    """The rows of a JSON Lines file, in its order.

    Raises: DatasetUnreadable.
    """
    try:
        with train_file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetUnreadable(
            f"{train_file} was to be trained on",
            f"it cannot be read ({error})",
            "fetch it again",
        ) from error
    if not rows:
        raise DatasetUnreadable(
            f"{train_file} was to be trained on",
            "it has no rows",
            "give it some",
        )
    return rows


def divide(rows: Sequence[T], settings: DatasetSettings) -> tuple[list[T], list[T]]:
    """Rows to train on and rows to hold out, shuffled first where that is asked for.

    Without train_test_split one in ten is held out, at most 64, and none of fewer than 50 rows.
    """
    ordered = list(rows)
    if settings.shuffle_dataset:
        Random(settings.shuffle_seed).shuffle(ordered)
    held_out = _rows_to_hold_out(len(ordered), settings.train_test_split)
    kept = len(ordered) - held_out
    return ordered[:kept], ordered[kept:]


def _rows_to_hold_out(rows: int, train_test_split: float | None) -> int:
    if train_test_split is not None:
        return min(rows - 1, round(rows * (1 - train_test_split)))
    if rows < _ROWS_WORTH_HOLDING_OUT:
        return 0
    return min(_HELD_OUT_MOST, round(rows * _HELD_OUT_SHARE))


def tokenise(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    numbers: Sequence[int] = (),
) -> Examples:
    """Token ids and labels of the rows, cut at the end to max_length.

    numbers: by which messages name the rows; none = their places here, from 1 on.
    Raises: DatasetRowsInvalid: a row that the chat template refuses, or whose answers it renders
    so that they could not be learned; or no answer at all.
    InvalidTuningConfig: conversations, but no chat template.
    """
    encoder = _Encoder(tokenizer)
    named = zip(numbers or range(1, len(rows) + 1), rows, strict=True)
    whole = [encoder.encode(row, number) for number, row in named]
    short = [Example(one.input_ids[:max_length], one.labels[:max_length]) for one in whole]
    examples = [one for one in short if one.answer_tokens]
    if rows and not examples:
        raise DatasetRowsInvalid(
            f"{len(rows)} rows were to be trained on",
            f"none has an answer within its first {max_length} tokens",
            "raise TrainingArguments.max_length",
        )
    return Examples(
        examples=examples,
        cut=sum(len(one.input_ids) > max_length for one in whole),
        dropped=len(short) - len(examples),
    )


def question_of(row: Row) -> Messages | str | None:
    """What a single-turn row asks: its messages before the answer, or its prompt; else None."""
    if "prompt" in row:
        return str(row["prompt"])
    messages: Messages = row.get("messages", [])
    answers = [message for message in messages if message["role"] == "assistant"]
    if len(answers) != 1 or messages[-1] is not answers[0] or len(messages) < 2:
        return None
    return messages[:-1]


def answer_of(row: Row) -> str:
    """What a single-turn row answers."""
    return str(row["completion"]) if "prompt" in row else str(row["messages"][-1]["content"])


def encode_question(question: Messages | str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a question, up to where the answer begins."""
    if isinstance(question, str):
        return _without_end(list(tokenizer(question)["input_ids"]), tokenizer)
    return _Encoder(tokenizer).rendered(question, asks=True)


def find_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the chat template's end of turn, and the tokenizer's end."""
    end_of_turn = _Encoder(tokenizer).end_of_turn if tokenizer.chat_template else None
    ends = (end_of_turn, tokenizer.eos_token_id)
    return list(dict.fromkeys(end for end in ends if end is not None))


class _Unlearnable(ValueError):
    """A conversation whose answers cannot be told from the rest; carries what to do."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.fix = fix


class _Encoder:
    """Rows to ids for one tokenizer; finds out once how its chat template ends a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.end_of_turn = self._find_end_of_turn() if tokenizer.chat_template else None

    def encode(self, row: Row, number: int) -> Example:
        if "messages" not in row:
            return self._encode_plain(row)
        if not self._tokenizer.chat_template:
            raise InvalidTuningConfig(
                "the rows are conversations",
                "the base model has no chat template",
                "set ModelConfig.chat_template, or give prompt and completion columns",
            )
        try:
            return self._encode_conversation(row["messages"])
        except _Unlearnable as error:
            raise DatasetRowsInvalid(
                f"row {number} was to be learned from", str(error), error.fix
            ) from None
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in row["messages"])
            raise DatasetRowsInvalid(
                f"row {number} (roles {roles}) was to be rendered by the model's chat template",
                f"the template refuses it ({error})",
                "change the row or set ModelConfig.chat_template",
            ) from error

    def rendered(self, messages: Messages, *, asks: bool) -> list[int]:
        """The ids of a rendered conversation; asks: up to where the next answer begins."""
        # The template writes the start token itself.
        text = self._text(messages, asks=asks)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, messages: Messages, *, asks: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=asks
            )
        )

    def _encode_plain(self, row: Row) -> Example:
        prompt = str(row.get("prompt", ""))
        text = prompt + str(row["completion"]) if "prompt" in row else str(row["text"])
        tokenizer = self._tokenizer
        ids = _without_end(list(tokenizer(text)["input_ids"]), tokenizer)
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        before = list(tokenizer(prompt)["input_ids"]) if prompt else []
        answer_from = _shared_prefix(before, ids)
        return Example(ids, [NO_LOSS] * answer_from + ids[answer_from:])

    def _encode_conversation(self, messages: Messages) -> Example:
        ids = self.rendered(messages, asks=False)
        labels = [NO_LOSS] * len(ids)
        for start, end in self._answers(messages, ids):
            labels[start:end] = ids[start:end]
        if self.end_of_turn is None and self._tokenizer.eos_token_id is not None:
            # A template without an end of turn would teach the model to run on.
            ids.append(self._tokenizer.eos_token_id)
            says_something_last = messages[-1]["role"] == "assistant"
            labels.append(ids[-1] if says_something_last else NO_LOSS)
        return Example(ids, labels)

    def _answers(self, messages: Messages, ids: list[int]) -> Iterator[tuple[int, int]]:
        """Where each answer begins and ends in the whole conversation's ids."""
        whole = self._text(messages, asks=False)
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            self._check_what_comes_before(messages[:turn], whole)
            start = _shared_prefix(self.rendered(messages[:turn], asks=True), ids)
            end = len(ids)
            if turn + 1 < len(messages):
                end = _shared_prefix(self.rendered(messages[: turn + 1], asks=False), ids)
            end = self._end_of_answer(ids, start, end)
            self._check_what_is_said(message["content"], ids[start:end], number=turn + 1)
            yield start, end

    def _check_what_comes_before(self, before: Messages, whole: str) -> None:
        """Nothing when the conversation begins as it does when it is only so long.

        Else the answer's beginning cannot be told: others' words would be learned, or none.
        Raises: _Unlearnable.
        """
        if not before:
            raise _Unlearnable(
                "message 1 is the assistant's, with no question before it",
                "begin the row with a user or system message",
            )
        asked, told = self._text(before, asks=True), self._text(before, asks=False)
        # Without the invitation to answer: some templates end it otherwise than an answer begins.
        if not whole.startswith(asked[: _shared_prefix(asked, told)]):
            raise _Unlearnable(
                f"the chat template renders the {len(before)} message(s) before an answer in "
                "another way once it is there, so that it cannot be told what the assistant says",
                _TEMPLATE_FIX,
            )

    def _check_what_is_said(self, content: str, said: list[int], *, number: int) -> None:
        """Nothing when the ids with loss have all that the assistant says in its message.

        Raises: _Unlearnable.
        """
        if _squashed(self._plain(content)) in _squashed(str(self._tokenizer.decode(said))):
            return
        raise _Unlearnable(
            f"message {number} (assistant) would not be learned, or not whole: the chat template "
            "leaves out a part of it, or renders it in another way when others follow",
            _TEMPLATE_FIX,
        )

    def _plain(self, content: str) -> str:
        """The content as the tokenizer gives it back, which may normalise it."""
        ids = self._tokenizer(content.strip(), add_special_tokens=False)["input_ids"]
        return str(self._tokenizer.decode(ids))

    def _end_of_answer(self, ids: list[int], start: int, end: int) -> int:
        """Just behind the end-of-turn token: the line break after it is not the model's to say."""
        said = ids[start:end]
        if self.end_of_turn not in said:
            return end
        return end - said[::-1].index(self.end_of_turn)

    def _find_end_of_turn(self) -> int | None:
        """The first special token after what an assistant says; None where there is none."""
        asked: Messages = [
            {"role": "user", "content": _PROBE},
            {"role": "assistant", "content": _PROBE},
        ]
        text = self._tokenizer.apply_chat_template(asked, tokenize=False)
        after = str(text).rpartition(_PROBE)[2]
        special = {
            token_id
            for token_id, token in self._tokenizer.added_tokens_decoder.items()
            if token.special
        } | set(self._tokenizer.all_special_ids)
        ids = self._tokenizer(after, add_special_tokens=False)["input_ids"]
        return next((token_id for token_id in ids if token_id in special), None)


def _without_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Leave out the end token that some tokenizers add to every text."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _squashed(text: str) -> str:
    """Leave out white space, which templates trim and tokenizers merge."""
    return "".join(text.split())


def _shared_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
