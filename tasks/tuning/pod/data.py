"""Normalised rows -> token ids and labels. The loss is on what the model should say, and no more.

    messages              every assistant turn, with the token that ends it
    prompt, completion    the completion, with the end token
    text                  everything, with the end token

`tasks.chat` says what of a conversation is text and what of that is learned, as it has to the
dataset's step; here it becomes tokens.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from serving.model.encoding import RenderedEncoder
from tasks.chat.bounds import TemplateRefusal
from tasks.chat.lessons import UNTEACHABLE_FIX, Lesson, Teacher, learned_tokens
from tasks.chat.proof import Unteachable, prove_tokens
from tasks.chat.template import ChatTemplate, Message, Tool
from tasks.contract.errors import DatasetRowsInvalid, DatasetUnreadable, InvalidTuningConfig

NO_LOSS = -100

Row = dict[str, Any]
Messages = Sequence[Message]


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
    """Tokenised rows that teach something; cut: over max_length, dropped: no answer was left.

    rows: those of the examples, of which a row has one, or one for each of its answers.
    """

    examples: list[Example]
    rows: int
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


def tokenise(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    numbers: Sequence[int] = (),
    may_be_silent: bool = False,
) -> Examples:
    """Token ids and labels of the rows, cut at the end to max_length.

    numbers: by which messages name the rows; none = their places here, from 1 on.
    may_be_silent: whether it is no fault if there is no answer at all.
    Raises: DatasetRowsInvalid: a row that the chat template refuses, or whose answers it renders
    so that they could not be learned; or no answer at all.
    InvalidTuningConfig: conversations, but no chat template.
    """
    encoder = _Encoder(tokenizer)
    named = zip(numbers or range(1, len(rows) + 1), rows, strict=True)
    whole = [encoder.encode(row, number) for number, row in named]
    short = [
        [Example(one.input_ids[:max_length], one.labels[:max_length]) for one in of_row]
        for of_row in whole
    ]
    taught = [[one for one in of_row if one.answer_tokens] for of_row in short]
    examples = [one for of_row in taught for one in of_row]
    if rows and not examples and not may_be_silent:
        raise DatasetRowsInvalid(
            f"{len(rows)} rows were to be trained on",
            f"none has an answer within its first {max_length} tokens",
            "raise TrainingArguments.max_length",
        )
    return Examples(
        examples=examples,
        rows=sum(bool(of_row) for of_row in taught),
        cut=sum(any(len(one.input_ids) > max_length for one in of_row) for of_row in whole),
        dropped=sum(not of_row for of_row in taught),
    )


@dataclass(frozen=True)
class Question:
    """A conversation up to where the assistant is to answer."""

    messages: Messages
    tools: Sequence[Tool] = ()


def question_of(row: Row) -> Question | str | None:
    """What a single-turn row asks: its messages before the answer, or its prompt; else None."""
    if "prompt" in row:
        return str(row["prompt"])
    messages: Messages = row.get("messages", [])
    answers = [message for message in messages if message["role"] == "assistant"]
    if len(answers) != 1 or messages[-1] is not answers[0] or len(messages) < 2:
        return None
    return Question(messages[:-1], row.get("tools", ()))


def answer_of(row: Row) -> str:
    """What a single-turn row answers."""
    return str(row["completion"]) if "prompt" in row else str(row["messages"][-1]["content"] or "")


def encode_question(question: Question | str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a question, up to where the answer begins."""
    if isinstance(question, str):
        return _without_end(list(tokenizer(question)["input_ids"]), tokenizer)
    teacher = _teacher(tokenizer)
    assert teacher
    asked = teacher.ask(question.messages, question.tools)
    return RenderedEncoder(tokenizer.backend_tokenizer, teacher.controls).encode(asked).ids


def find_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the chat template's ends of a turn, and the tokenizer's."""
    teacher = _teacher(tokenizer)
    ends = teacher.ends if teacher else ()
    found = [*(tokenizer.convert_tokens_to_ids(end) for end in ends), tokenizer.eos_token_id]
    return list(dict.fromkeys(end for end in found if end is not None))


class _Encoder:
    """Rows to ids for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.teacher = _teacher(tokenizer)
        controls = self.teacher.controls if self.teacher else ()
        self._rendered = RenderedEncoder(tokenizer.backend_tokenizer, controls)

    def encode(self, row: Row, number: int) -> list[Example]:
        """The examples of a row: one, or one for each answer where the template wants it so."""
        if "messages" not in row:
            return [self._encode_plain(row)]
        if self.teacher is None:
            raise InvalidTuningConfig(
                "the rows are conversations",
                "the base model has no chat template",
                "set ModelConfig.chat_template, or give prompt and completion columns",
            )
        try:
            lessons = self.teacher.teach(row["messages"], row.get("tools", ()))
            return [self._encode_lesson(lesson) for lesson in lessons]
        except Unteachable as error:
            raise DatasetRowsInvalid(
                f"row {number} was to be learned from", str(error), UNTEACHABLE_FIX
            ) from None
        except TemplateRefusal as error:
            roles = ", ".join(message["role"] for message in row["messages"])
            raise DatasetRowsInvalid(
                f"row {number} (roles {roles}) was to be rendered by the model's chat template",
                f"the template refuses it ({error})",
                "change the row or set ModelConfig.chat_template",
            ) from error

    def _encode_lesson(self, lesson: Lesson) -> Example:
        # The template writes the start token itself.
        encoded = self._rendered.encode(lesson.rendered)
        ids, offsets = encoded.ids, encoded.offsets
        learned = learned_tokens(offsets, lesson.spans)
        prove_tokens(lesson.text, offsets, learned, lesson.spans)
        labels = [
            one if is_learned else NO_LOSS for one, is_learned in zip(ids, learned, strict=True)
        ]
        return Example(ids, labels)

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


def _teacher(tokenizer: PreTrainedTokenizerBase) -> Teacher | None:
    source = tokenizer.chat_template
    if not source:
        return None
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    # One moment for all rows: no row is rendered otherwise because midnight has passed.
    now = datetime.now().astimezone()
    template = ChatTemplate(source, tokenizer.special_tokens_map, moment=now)
    return Teacher(
        template,
        specials=special | {*tokenizer.all_special_tokens},
        added=[token.content for token in tokenizer.added_tokens_decoder.values()],
        eos=tokenizer.eos_token,
    )


def _without_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Leave out the end token that some tokenizers add to every text."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _shared_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
