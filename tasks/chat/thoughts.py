"""Thoughts beside an answer or in it: templates cut them out, leave them open or ask for them."""

import re
from collections.abc import Sequence

from tasks.chat.marks import MARK, Marked, thought_apart
from tasks.chat.template import Message

_ENDS_THOUGHT = re.compile(r"(<think>\s*)?</think>\s*\Z")
_CLOSES_THOUGHT = "\n</think>\n\n"


def with_thought(ask: str, said: str, marked: Marked, turn: int) -> tuple[str, str]:
    """Ask and answer, with the thought that the template cut out of the content, or left open."""
    content = str(marked.messages[turn].get("content")).strip()
    marks = MARK.findall(content)
    is_inline = bool(marks) and "</think>" in content
    if is_inline:
        said = _with_inline_thought(said, content, marks)
    if closed := _ENDS_THOUGHT.search(ask):
        if is_inline and content.index(marks[0]) < content.index("</think>"):
            # The server asks for no thought by itself; a row that has one is asked for it.
            ask = ask[: closed.start()]
        else:
            said = re.sub(r"\A\s*(<think>\s*)?</think>\s*", "", said)
    if not ask.rstrip().endswith("<think>"):
        return ask, said
    if is_inline:
        said = re.sub(r"\A\s*<think>\s*", "", said)
    if "</think>" in said:
        return ask, said
    return ask, f"{marked.thought(turn)}{_CLOSES_THOUGHT}{said.lstrip()}"


def _with_inline_thought(said: str, content: str, marks: Sequence[str]) -> str:
    """What is said, its content as it was written where the template changed its thought."""
    is_whole = "</think>" in said and all(mark in said for mark in marks)
    begins, after = MARK.split(said)[0].strip(), said.partition(marks[-1])[2]
    header = begins.removesuffix(content[: content.index(marks[0])].strip()) if is_whole else begins
    has_only_tags = not re.sub("</?think>", "", header).strip()
    if is_whole and not (header.strip() and has_only_tags):
        return said
    return f"{'' if has_only_tags else header}{content}{after}"


def with_reasoning_apart(message: Message) -> Message:
    """The message with a thought that its content begins with beside the content."""
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str):
        return message
    parts = thought_apart(content)
    if not parts or message.get("reasoning_content") or "<think>" in parts[1] + parts[3]:
        return message
    apart = {**message, "content": parts[3] + parts[4]}
    return apart | ({"reasoning_content": parts[1]} if parts[1] else {})


def without_reasoning(message: Message) -> Message:
    """The message without a thought beside its content."""
    return {word: value for word, value in message.items() if word != "reasoning_content"}
