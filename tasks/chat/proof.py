"""The proof that a text teaches what a conversation says, however its spans were found.

- Everything that anybody says is in the text, in its order.
- Each turn to learn lies in a span of its own, which ends with the token that ends a turn.
- What others say lies outside all spans; each word of a span is the turn's own or the template's.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from tasks.chat.template import Message, Tool

Span = tuple[int, int]

_TAGS = re.compile(r"</?think>")
_WORD = re.compile(r"\w+")
_LONG = 64


class Unteachable(ValueError):
    """A conversation that cannot be learned from as it is rendered; says what shows it."""


def prove(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    turns: Sequence[int],
    text: str,
    spans: Sequence[Span],
    ends: Collection[str],
    scaffold: str,
) -> None:
    """Nothing, where the text with its spans teaches exactly the turns.

    Args: messages: what the text is a rendering of. turns: the places of those to learn.
    ends: texts that end a turn; none = the model knows none. scaffold: the template's own words.
    Raises: Unteachable.
    """
    if len(spans) != len(turns):
        raise Unteachable(f"{len(turns)} assistant turns are to be learned, {len(spans)} would be")
    span_of = dict(zip(turns, spans, strict=True))
    _prove_tools(tools, text)
    cursor = 0
    for number, message in enumerate(messages, 1):
        span = span_of.get(number - 1)
        cursor = _follow(message, number, text=text, cursor=cursor, spans=spans, own=span)
        if span:
            _prove_end(text[slice(*span)], number, ends)
            _prove_thought(text[: span[0]], text[slice(*span)], message, number)
            _prove_own(text[slice(*span)], message, number, scaffold)


def prove_tokens(
    text: str,
    offsets: Sequence[Span],
    learned: Sequence[bool],
    spans: Sequence[Span],
) -> None:
    """Nothing, where the learned tokens are the spans: none is cut short, no letter is added.

    Args: offsets: where each token's text begins and ends. Raises: Unteachable.
    """
    ends = {end for (_, end), is_learned in zip(offsets, learned, strict=True) if is_learned}
    for start, stop in spans:
        if stop not in ends:
            raise Unteachable(
                f"the tokenizer merges {_shown(text[start:stop][-20:])} with what follows"
            )
    for (begin, end), is_learned in zip(offsets, learned, strict=True):
        starts = [start for start, stop in spans if start < end <= stop]
        if is_learned and (not starts or text[begin : starts[0]].strip()):
            raise Unteachable(f"{_shown(text[begin:end])} would be learned: not the assistant's")
        if starts and not is_learned:
            raise Unteachable(f"{_shown(text[begin:end])} of an answer would not be learned")


def _follow(
    message: Message,
    number: int,
    *,
    text: str,
    cursor: int,
    spans: Sequence[Span],
    own: Span | None,
) -> int:
    """Where the text goes on behind a message. Raises: Unteachable."""
    role, reached = message["role"], cursor
    # Templates move the system prompt.
    begin = 0 if role == "system" else cursor
    for piece, is_needed in _pieces(message, is_learned=own is not None):
        at = _find(text, piece, begin, spans=spans, own=own)
        if at is not None:
            reached = max(reached, at + len(piece))
        elif is_needed:
            where = "learned" if own else "read and not learned"
            raise Unteachable(
                f"message {number} ({role}) is not where it is {where}: the chat template leaves "
                f"out {_shown(piece)}"
            )
    return cursor if role == "system" else reached


def _pieces(message: Message, *, is_learned: bool) -> Iterator[tuple[str, bool]]:
    """What a message says, in parts that templates keep whole, and whether it must be there.

    Reasoning of turns that lie before is left out by many templates, in serving as well.
    """
    if reasoning := message.get("reasoning_content"):
        yield reasoning.strip(), is_learned
    thought_and_answer = _TAGS.split(message.get("content") or "")
    for part in (part.strip() for part in thought_and_answer[:-1]):
        if part:
            yield part, is_learned or message["role"] != "assistant"
    if last := thought_and_answer[-1].strip():
        yield last, True
    for call in message.get("tool_calls") or ():
        yield call["function"]["name"], True
        for leaf in _leaves(call["function"]["arguments"]):
            yield leaf, True


def _leaves(value: Any) -> Iterator[str]:
    """Keys, texts and numbers of a JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value
    elif value is not None and not isinstance(value, bool):
        yield json.dumps(value)


def _find(
    text: str,
    piece: str,
    begin: int,
    *,
    spans: Sequence[Span],
    own: Span | None,
) -> int | None:
    """The first place of a piece inside its own span, or outside all."""
    for is_escaped in (False, True):
        form = json.dumps(piece, ensure_ascii=False)[1:-1] if is_escaped else piece
        at = text.find(form, max(begin, own[0]) if own else begin)
        while at >= 0:
            end = at + len(form)
            if own and end > own[1]:
                break
            if own or all(end <= start or at >= stop for start, stop in spans):
                return at
            at = text.find(form, at + 1)
    return None


def _prove_end(said: str, number: int, ends: Collection[str]) -> None:
    if ends and not said.rstrip().endswith(tuple(ends)):
        raise Unteachable(f"the end of message {number} (assistant) would not be learned")


def _prove_thought(before: str, said: str, message: Message, number: int) -> None:
    is_open = before.rstrip().endswith("<think>")
    opens = "<think>" in (message.get("content") or "") and "</think>" in said
    if opens and not is_open and "<think>" not in said:
        raise Unteachable(f"message {number} (assistant) would not begin the thought that it has")
    is_left_open = is_open or (
        "<think>" in said and "<think>" not in (message.get("content") or "")
    )
    if is_left_open and "</think>" not in said:
        raise Unteachable(
            f"message {number} (assistant) would never end the thought that it begins in"
        )


def _prove_own(said: str, message: Message, number: int, scaffold: str) -> None:
    """Nothing, where all words of a span are the turn's or the template's."""
    content = (message.get("content") or "").strip()
    if len(content) >= _LONG:
        # Its words need not be looked up one by one.
        said = said.replace(content, " ", 1)
    strange = [word for word in _WORD.findall(said) if word not in scaffold]
    if strange:
        pieces = (piece for piece, _ in _pieces(message, is_learned=True))
        # Templates write values as JSON or as Python does.
        written = json.dumps(message, ensure_ascii=False, default=str) + repr(message)
        own = {*_WORD.findall("\n".join([written, *pieces]))}
        strange = [word for word in strange if word not in own]
    if strange:
        raise Unteachable(
            f"with message {number} (assistant) words that it does not say would be learned: "
            f"{_shown(' '.join(strange))}"
        )


def _prove_tools(tools: Sequence[Tool], text: str) -> None:
    for tool in tools:
        name = tool.get("function", tool).get("name")
        if isinstance(name, str) and name not in text:
            raise Unteachable(f"the chat template leaves out the tool {name}: it knows no tools")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
