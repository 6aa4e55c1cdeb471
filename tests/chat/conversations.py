"""Conversations of the kinds that datasets have, in words that no template has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "lookup", "arguments": {"key": "val7"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks up.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "A key."}},
            "required": ["key"],
        },
    },
}


@dataclass(frozen=True)
class Conversation:
    """Messages, and the tools that they may call."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def thought(reasoning: str, text: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n\n{text}"


RESULT = {"role": "tool", "name": "lookup", "tool_call_id": "call00001", "content": "res9"}
KINDS = {
    "single": Conversation([user("q1"), assistant("ANS1")]),
    "multi": Conversation([user("q1"), assistant("ANS1"), user("q2"), assistant("ANS2")]),
    "system": Conversation(
        [system("SYS"), user("q1"), assistant("ANS1"), user("q2"), assistant("ANS2")]
    ),
    "tool": Conversation(
        [user("q1"), assistant(None, tool_calls=[CALL]), RESULT, assistant("ANS2")], [TOOL]
    ),
    "thought inline": Conversation(
        [
            *(user("q1"), assistant(thought("R1", "ANS1"))),
            *(user("q2"), assistant(thought("R2", "ANS2"))),
        ]
    ),
    "thought beside": Conversation(
        [
            *(user("q1"), assistant("ANS1", reasoning_content="R1")),
            *(user("q2"), assistant("ANS2", reasoning_content="R2")),
        ]
    ),
    "no thought": Conversation([user("q1"), assistant("<think>\n\n</think>\n\nANS1")]),
    "assistant first": Conversation([assistant("HELLO"), user("q1"), assistant("ANS1")]),
    "user last": Conversation([user("q1"), assistant("ANS1"), user("q2")]),
    "white space": Conversation(
        [user(" q1\n"), assistant("  ANS1  two\n\n"), user("q2"), assistant("ANS2 ")]
    ),
    "weight 0": Conversation(
        [user("q1"), assistant("BAD", weight=0), user("q2"), assistant("ANS2")]
    ),
}
