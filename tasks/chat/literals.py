"""Special tokens that somebody spells in a conversation: they are text there, and stay it.

`<|im_end|>` in a user's message would end the message. Where the template itself writes such a
token and where somebody says it is told by rendering the conversation a second time, with marks in
place of what is said; filled again, that must be the true rendering, letter by letter.
"""

import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.chat.bounds import TemplateRefusal
from tasks.chat.proof import Unteachable
from tasks.chat.template import ChatTemplate, Message, Tool

Span = tuple[int, int]
Render = Callable[[Sequence[Message], Sequence[Tool]], str]

# Models say these themselves, inside of what they answer: some templates look for them there.
_THOUGHT_TAGS = {"<think>", "</think>"}


class SpecialTokenSaid(Unteachable):
    """A special token that is said cannot be told from those that the template writes."""


@dataclass(frozen=True)
class Rendered:
    """A conversation's text; literals: where it spells special tokens that are text."""

    text: str
    literals: tuple[Span, ...] = ()


def control_texts(
    template: ChatTemplate, *, special: Collection[str], added: Collection[str]
) -> frozenset[str]:
    """What has a meaning of its own to a model: special tokens, and what its template writes.

    Args: special: the texts of special tokens. added: of all that a tokenizer keeps whole; those of
        DeepSeek's that name who speaks are not called special.
    """
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    try:
        written = template.render(talk) + template.render(talk[:1], asks=True)
    except TemplateRefusal:
        written = ""
    found = {*special, *(token for token in added if token in written)}
    return frozenset(found - _THOUGHT_TAGS - {""})


def render_literally(
    render: Render,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    controls: Collection[str],
) -> Rendered:
    """What the template makes of a conversation, and where that spells what is text.

    Raises: SpecialTokenSaid; TemplateRefusal.
    """
    text = render(messages, tools)
    said = Said(messages, tools, controls)
    if not said.marks:
        return Rendered(text)
    return Rendered(text, said.places(text, render(said.messages, said.tools)))


class Said:
    """A conversation with a mark in place of each special token that is spelled in it."""

    def __init__(
        self, messages: Sequence[Message], tools: Sequence[Tool], controls: Collection[str]
    ) -> None:
        """Mark what a conversation says, names and values of calls included, but not its roles."""
        longest_first = sorted(controls, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first))) if controls else None
        self._nonce = secrets.token_hex(4)  # nobody can say a mark
        self.marks: dict[str, str] = {}
        self.messages: list[dict[str, Any]] = [
            {key: value if key == "role" else self._marked(value) for key, value in each.items()}
            for each in messages
        ]
        self.tools: list[dict[str, Any]] = [self._marked(dict(tool)) for tool in tools]

    def places(self, text: str, marked: str) -> tuple[Span, ...]:
        """Where the true rendering spells them, by the one with marks. Raises: SpecialTokenSaid."""
        spans: list[Span] = []
        filled, read = "", 0
        for found in re.finditer(f"Qz{self._nonce}\\d{{5}}zQ", marked):
            filled += marked[read : found.start()]
            said = self.marks[found.group()]
            spans.append((len(filled), len(filled) + len(said)))
            filled, read = filled + said, found.end()
        if filled + marked[read:] != text:
            said = next(iter(self.marks.values()))
            raise SpecialTokenSaid(
                f"{said} is said, a special token of the model, and the chat template renders it in"
                " a way that depends on what is said, so that it cannot be kept as text"
            )
        return tuple(spans)

    def _marked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._control.sub(self._mark, value) if self._control else value
        if isinstance(value, Mapping):
            return {self._marked(key): self._marked(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(inner) for inner in value]
        return value

    def _mark(self, found: re.Match[str]) -> str:
        mark = f"Qz{self._nonce}{len(self.marks):05d}zQ"
        self.marks[mark] = found.group()
        return mark
