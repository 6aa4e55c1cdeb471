"""How many tokens a row has for the base model, without loading transformers, which takes seconds.

`tokenizer.json` and the chat template are used directly; a test holds the result against
transformers' own `apply_chat_template`.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from tokenizers import Tokenizer

from serving.model.encoding import RenderedEncoder
from tasks.chat.bounds import TemplateOverrun, TemplateRefusal
from tasks.chat.lessons import UNTEACHABLE_FIX, Lesson, Teacher
from tasks.chat.proof import Unteachable
from tasks.chat.template import ChatTemplate, read_chat_template
from tasks.contract.errors import InvalidTuningConfig, WeightsUnavailable
from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.shapes import NormalRow

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


class Reach(NamedTuple):
    """After how many tokens of a text what it teaches begins, and has been said.

    answered: after how many its first answer is whole; 1 = it is no answer to anything.
    """

    begins: int
    answered: int
    ends: int


class TokenCounter:
    """Counts a row's tokens the way training sees them: rendered, and with the end token.

    Raises: WeightsUnavailable: the folder has no usable tokenizer or chat template.
    InvalidTuningConfig: the chat template that is asked for is none.
    """

    def __init__(self, weights_dir: Path, chat_template: str | None = None) -> None:
        """Count by the model's own chat template, or by another: Jinja text, or a file's path."""
        self._tokenizer = _tokenizer(weights_dir)
        config = _read_json(weights_dir / "special_tokens_map.json")
        config |= _read_json(weights_dir / "tokenizer_config.json")
        special = {name: text for name in SPECIAL_TOKENS if (text := _token_text(config.get(name)))}
        eos = special.get("eos_token")
        self._eos_id = self._tokenizer.token_to_id(eos) if eos else None
        if chat_template:
            source: str | dict[str, str] = read_chat_template(chat_template)
        else:
            source = _chat_template(weights_dir, config)
        tokens = self._tokenizer.get_added_tokens_decoder().values()
        specials = {token.content for token in tokens if token.special} | {*special.values()}
        added = [token.content for token in tokens]
        try:
            template = ChatTemplate(source, special, moment=_now()) if source else None
        except (TemplateError, TemplateOverrun) as error:
            raise _unusable(weights_dir, f"its chat template is broken ({error})") from error
        self._teacher = (
            Teacher(template, specials=specials, added=added, eos=eos) if template else None
        )
        controls = self._teacher.controls if self._teacher else ()
        self._rendered = RenderedEncoder(self._tokenizer, controls)

    def lessons(self, row: NormalRow) -> list[Lesson]:
        """The texts that a row is trained on: one, or one for each answer.

        Raises: Unfit: the chat template refuses the conversation, or renders it so that not all
        that is said can be learned. InvalidTuningConfig: a conversation, but no chat template.
        """
        messages = row.get("messages")
        if messages is None:
            text = "".join(str(value) for value in row.values())
            return [Lesson(text, ((len(row.get("prompt", "")), len(text)),))]
        if self._teacher is None:
            raise InvalidTuningConfig(
                "the rows are conversations",
                "the base model has no chat template",
                "set ModelConfig.chat_template, or give prompt and completion columns",
            )
        try:
            lessons = self._teacher.teach(messages, row.get("tools", ()))
            for lesson in lessons:
                if lesson.literals:  # whether the tokenizer can keep them text
                    self._rendered.encode(lesson.rendered)
        except TemplateOverrun as error:
            raise InvalidTuningConfig(
                "the chat template was to render a row", f"{error}", "correct the template"
            ) from error
        except TemplateRefusal as error:
            roles = ", ".join(message["role"] for message in messages[:8])
            raise Unfit(f"the model's chat template refuses it (roles {roles}): {error}") from error
        except Unteachable as error:
            raise Unfit(f"{error}; {UNTEACHABLE_FIX}") from error
        return lessons

    def leaves_out_reasoning(self, row: NormalRow) -> bool:
        """Whether a row has reasoning beside its answers that the chat template does not render."""
        reads = self._teacher is not None and self._teacher.reads_reasoning
        return not reads and any(m.get("reasoning_content") for m in row.get("messages", ()))

    def reach(self, lesson: Lesson) -> Reach:
        """How far into a text it teaches."""
        offsets = self._rendered.encode(lesson.rendered).offsets
        within = partial(_tokens_within, offsets)
        (begin, first_end), end = lesson.spans[0], lesson.spans[-1][1]
        first, last = within(begin, end)
        return Reach(first, within(begin, first_end)[1] if begin else 1, last)

    def count(self, lessons: Sequence[Lesson], *, plain: bool) -> list[int]:
        """The tokens of each text; plain: no template wrote the start and end tokens into it."""
        if any(lesson.literals for lesson in lessons):
            return [len(self._rendered.encode(lesson.rendered).ids) for lesson in lessons]
        texts = [lesson.text for lesson in lessons]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=plain)
        if not plain or self._eos_id is None:
            return [len(encoding.ids) for encoding in encodings]
        # Some tokenizers end every text themselves.
        return [len(one.ids) + (one.ids[-1:] != [self._eos_id]) for one in encodings]


def _tokens_within(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
    """The first and the last token, counted from 1, with a character from `begin` to `end`."""
    numbers = [n for n, (start, stop) in enumerate(offsets, 1) if start < end and stop > begin]
    return (numbers[0], numbers[-1]) if numbers else (1, 1)


def _now() -> datetime:
    """One moment for all rows: no row is rendered otherwise because midnight has passed."""
    return datetime.now().astimezone()


def _tokenizer(weights_dir: Path) -> Any:
    path = weights_dir / "tokenizer.json"
    if not path.is_file():
        raise _unusable(weights_dir, "there is no tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise _unusable(weights_dir, f"its tokenizer.json is broken ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _unusable(weights_dir: Path, found: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"cannot count tokens with the base model in {weights_dir}",
        f"{found}",
        "fetch it again",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _token_text(token: object) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _chat_template(weights_dir: Path, config: dict[str, Any]) -> str | dict[str, str]:
    path = weights_dir / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        return {entry["name"]: entry["template"] for entry in found}
    return str(found)
