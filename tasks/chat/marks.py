"""A conversation with marks instead of what is said, and texts with such marks."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.chat.template import Message

MARK = re.compile(r"QzMark\d{5}zQ")
_THOUGHT = re.compile(r"(\s*(?:<think>)?\s*)(.*?)(\s*</think>\s*)(.*?)(\s*)", re.DOTALL)


class Marked:
    """A conversation with marks instead of what is said; white space and thought tags stay."""

    def __init__(self, messages: Sequence[Message]) -> None:
        """Put marks into copies of the messages, a mark for each text."""
        self.given = [{k: v for k, v in message.items() if k != "weight"} for message in messages]
        self.contents: dict[str, str] = {}
        self.marks: list[list[str]] = []
        self.messages = [self._marked(message) for message in self.given]

    @property
    def escaped(self) -> Mapping[str, str]:
        """The contents as they are in templates that write results of tools as JSON."""
        escaped = dict(self.contents)
        for message, marks in zip(self.given, self.marks, strict=True):
            if message["role"] == "tool":
                escaped |= {m: json.dumps(escaped[m], ensure_ascii=False)[1:-1] for m in marks}
        return escaped

    def begins(self, turn: int, text: str) -> bool:
        """Whether the turn's own content or call begins with a text."""
        message = self.messages[turn]
        content = str(message.get("content") or "").lstrip()
        return content.startswith(text) or bool(message.get("tool_calls"))

    def thought(self, turn: int) -> str:
        """The mark of a thought, beside the content or in it, or nothing."""
        message = self.messages[turn]
        inline, tag, _ = str(message.get("content")).partition("</think>")
        found = MARK.search(str(message.get("reasoning_content") or (tag and inline)))
        return found.group() if found else ""

    def _marked(self, message: Message) -> dict[str, Any]:
        marked, marks = dict(message), []
        for word in ("reasoning_content", "content"):
            text = message.get(word)
            if not isinstance(text, str):
                continue
            thinks = word == "content" and message["role"] == "assistant"
            parts = (thought_apart(text) if thinks else None) or _padding_apart(text)
            for at in range(1, len(parts), 2):
                if parts[at]:
                    placed = mark(len(self.contents))
                    self.contents[placed] = parts[at]
                    marks.append(placed)
                    parts[at] = placed
            marked[word] = "".join(parts)
        self.marks.append(marks)
        return marked


def thought_apart(text: str) -> list[str] | None:
    """White space and tags, thought, tags, answer, white space; None where there is no thought."""
    match = _THOUGHT.fullmatch(text) if "</think>" in text else None
    return list(match.groups()) if match else None


def _padding_apart(text: str) -> list[str]:
    """White space, what is said, white space."""
    said = text.strip()
    before = len(text) - len(text.lstrip()) if said else len(text)
    return [text[:before], said, text[before + len(said) :]]


def mark(number: int) -> str:
    """The mark that stands for one text of a conversation."""
    return f"QzMark{number:05d}zQ"


def last_mark(text: str) -> str:
    """The last mark in a text; empty where it has none."""
    found: list[str] = MARK.findall(text)
    return found[-1] if found else ""


def end_of_last_mark(text: str) -> int:
    """Where the last mark ends; 0 where there is none."""
    return max((match.end() for match in MARK.finditer(text)), default=0)


def fill(text: str, contents: Mapping[str, str]) -> str:
    """The text with what the marks stand for."""
    return MARK.sub(lambda match: contents[match.group()], text)


def growth(text: str, contents: Mapping[str, str]) -> Callable[[int], int]:
    """Where places of the text with marks are in the filled one."""
    by = [(m.start(), len(contents[m.group()]) - len(m.group())) for m in MARK.finditer(text)]
    return lambda place: place + sum(length for start, length in by if start < place)
