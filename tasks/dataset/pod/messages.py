"""A conversation as datasets write it -> messages as chat templates read them.

    {"role", "content"}     of everybody; content is null only beside a call of a tool
    reasoning_content       what an assistant thinks before it speaks
    tool_calls              [{"id", "type", "function": {"name", "arguments": {...}}}]
    name, tool_call_id      of a tool's result
    weight                  0: an assistant's turn that is read and not learned

Pure. What is known and means nothing here, and what is not known, is named to the caller.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.values import as_text, holds_something, kind_of, listed, unempty

Message = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
    # ShareGPT's turn whose text is the call itself.
    "function_call": "assistant",
}
_CALLS_AS_TEXT = "function_call"
_REASONING = ("reasoning_content", "reasoning", "thinking")
_LEARNS = ("weight", "train", "training")


def read_messages(value: object, column: str, unused: set[str]) -> list[Message]:
    """The messages of a column; unused: gets the keys that nothing is made of.

    Raises: Unfit.
    """
    if isinstance(value, str):
        value = _decoded(value, column)
    if value is None:
        raise Unfit(f"{column} is null")
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise Unfit(f"{column} is {kind_of(value)}, not a list of messages")
    if not value:
        raise Unfit(f"{column} is an empty list")
    messages = [_message(item, f"message {number}", unused) for number, item in enumerate(value, 1)]
    if not any(message["role"] == "assistant" for message in messages):
        raise Unfit(f"{column} has no assistant turn, so there is nothing to learn")
    _name_calls(messages)
    return messages


def read_tools(value: object, name: str) -> list[dict[str, Any]]:
    """The tools of a column, as templates read them.

    Raises: Unfit.
    """
    if isinstance(value, str):
        value = _decoded(value, name) if value.strip() else []
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise Unfit(f"{name} is {kind_of(value)}, not a list of tools")
    tools = []
    for number, tool in enumerate(value, 1):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Unfit(f"tool {number} of {name} has no name")
        is_whole = isinstance(tool, Mapping) and "function" in tool
        tools.append({"type": "function", **(tool if is_whole else {"function": dict(function)})})
    return tools


def _decoded(value: str, column: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        hint = " (it looks like Python's own notation; write it with json.dumps)"
        raise Unfit(
            f"{column} is text that is not JSON{hint if value.lstrip()[:2] == '[{' else ''}"
        ) from None


def _message(item: object, where: str, unused: set[str]) -> Message:
    if not isinstance(item, Mapping):
        raise Unfit(f"{where} is {kind_of(item)}, not an object with role and content")
    given = _role(item, where)
    role = ROLES[given]
    used = {"role", "from", "content", "value"}
    message: Message = {"role": role, "content": _content(item, where, role, given, unused)}
    if role == "assistant":
        used |= {"tool_calls", "function_call", *_REASONING, *_LEARNS}
        if calls := _calls(item, where, given, unused):
            message |= {"tool_calls": calls}
            if given == _CALLS_AS_TEXT:
                message["content"] = None
        if reasoning := _reasoning(item, where):
            message["reasoning_content"] = reasoning
        if not _is_learned(item, where):
            message["weight"] = 0
    elif role == "tool":
        used |= {"name", "tool_call_id"}
        message |= {k: str(item[k]) for k in ("name", "tool_call_id") if item.get(k)}
    unused |= {
        f"messages[].{name}"
        for name, value in item.items()
        if name not in used and holds_something(name, value)
    }
    return message


def _role(item: Mapping[str, object], where: str) -> str:
    named = [item[word] for word in ("role", "from") if item.get(word) is not None]
    if not named:
        raise Unfit(f"{where} has no role (found: {listed(item)})")
    roles = [str(one).strip().lower() for one in named]
    unknown = next((one for one, role in zip(named, roles, strict=True) if role not in ROLES), None)
    if unknown is not None:
        raise Unfit(
            f"{where} has the unknown role {str(unknown)[:40]!r}; "
            "use system, user, assistant or tool"
        )
    if len({ROLES[role] for role in roles}) > 1:
        raise Unfit(f"{where} has the role {roles[0]!r} and is from {roles[1]!r}; keep one")
    return roles[0]


def _content(
    item: Mapping[str, object], where: str, role: str, given: str, unused: set[str]
) -> str | None:
    named = f"the content of {where} ({given})"
    if "content" not in item and "value" not in item:
        if item.get("tool_calls") or item.get("function_call"):
            return None
        raise Unfit(f"{where} has no content (found: {listed(item)})")
    both = [item[word] for word in ("content", "value") if item.get(word) not in (None, "")]
    if len(both) > 1 and both[0] != both[1]:
        raise Unfit(f"{where} has a content and another value; keep one")
    content = both[0] if both else item.get("content", item.get("value"))
    if role == "tool" and isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False, default=str)
    content = _joined_parts(content, named, unused)
    calls = item.get("tool_calls") or item.get("function_call")
    if role == "assistant" and calls and (content is None or content == ""):
        return None
    if role == "tool" and isinstance(content, str) and not content.strip():
        return unempty(content, named)
    return as_text(content, named)


def _joined_parts(content: object, named: str, unused: set[str]) -> object:
    """The text of a content given as a list of typed parts."""
    if not isinstance(content, Sequence) or isinstance(content, str | bytes):
        return content
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            if isinstance(part, Mapping) and isinstance(part.get("thinking"), str):
                continue
            raise Unfit(f"{named} has a part that is not text; only text can be trained on")
        texts.append(str(part["text"]))
        unused |= {
            f"messages[].content[].{name}"
            for name, value in part.items()
            if name not in ("type", "text") and holds_something(name, value)
        }
    return "".join(texts)


def _reasoning(item: Mapping[str, object], where: str) -> str:
    found = [item[word] for word in _REASONING if item.get(word) not in (None, "")]
    content = item.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        parts = [part for part in content if isinstance(part, Mapping)]
        found += [part["thinking"] for part in parts if isinstance(part.get("thinking"), str)]
    if any(one != found[0] for one in found[1:]):
        raise Unfit(f"{where} has reasoning in two places; keep one")
    return unempty(found[0], f"the reasoning of {where}").strip() if found else ""


def _is_learned(item: Mapping[str, object], where: str) -> bool:
    said = {word: item[word] for word in _LEARNS if item.get(word) is not None}
    for word, value in said.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise Unfit(f"{word} of {where} is {str(value)[:20]!r}; use 0 or 1")
    if len({bool(value) for value in said.values()}) > 1:
        raise Unfit(f"{where} is to be learned and not to be learned ({', '.join(said)}); keep one")
    return all(said.values())


def _calls(
    item: Mapping[str, object], where: str, given: str, unused: set[str]
) -> list[dict[str, Any]]:
    calls = item.get("tool_calls")
    if not calls and item.get("function_call"):
        calls = [{"function": item["function_call"]}]
    if given == _CALLS_AS_TEXT:
        text = item.get("value") or item.get("content")
        calls = _decoded(text, f"the call of {where}") if isinstance(text, str) else text
        calls = [{"function": one} for one in (calls if isinstance(calls, list) else [calls])]
    if not calls:
        return []
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise Unfit(f"tool_calls of {where} is {kind_of(calls)}, not a list")
    return [_call(call, where, unused) for call in calls]


def _call(call: object, where: str, unused: set[str]) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unfit(f"{where} calls a tool without a name")
    assert isinstance(call, Mapping)
    word = "arguments" if "arguments" in function else "parameters"
    arguments = function.get(word)
    if isinstance(arguments, str):
        arguments = _decoded(arguments, f"the arguments of {where}") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise Unfit(f"the arguments of {where} are {kind_of(arguments)}, not an object")
    known = {"name", word, "id", "type", "function"}
    unused |= {
        f"messages[].tool_calls[].{name}"
        for name, value in {**call, **function}.items()
        if name not in known and holds_something(name, value)
    }
    named = {"id": str(call["id"])} if call.get("id") else {}
    return {
        **named,
        "type": "function",
        "function": {"name": function["name"], "arguments": dict(arguments)},
    }


def _name_calls(messages: Sequence[Message]) -> None:
    """Give calls and results the names by which templates put them together."""
    open_calls: list[dict[str, Any]] = []
    made = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            made += 1
            call.setdefault("id", f"call{made:05d}")
            open_calls.append(call)
        if message["role"] == "tool":
            asked = message.get("tool_call_id")
            call = next((one for one in open_calls if asked in (None, one["id"])), None)
            if call is not None:
                open_calls.remove(call)
                message.setdefault("tool_call_id", call["id"])
                message.setdefault("name", call["function"]["name"])
