"""A raw row -> one of the three shapes that training knows.

    {"messages": [{"role", "content"}, ...]}    from messages, ShareGPT conversations, instruction
                                                and question/answer columns
    {"prompt", "completion"}                    kept as they are: no chat template is put around
    {"text"}                                    plain text

Pure. What a row must not have: empty, null or non-text content, an unknown role, no assistant turn.
A turn after the last assistant turn is allowed: it is harmless, as nothing is learned from it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tasks.contract.programs.dataset import DatasetColumns
from tasks.contract.row_words import MESSAGE_WORDS, ROW_WORDS
from tasks.dataset.pod.rows import Unfit

Message = dict[str, str]
NormalRow = dict[str, str | list[Message]]

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
# (what is asked, where the answer may be), the first that fits; `context` and `input` are added.
PAIRS = (
    ("instruction", ("output", "response", "answer", "completion")),
    ("question", ("answer", "answers", "response")),
    ("prompt", ("response", "output", "answer")),
    ("query", ("response", "answer")),
    ("input", ("output", "response")),
)
EXTRA_COLUMNS = ("input", "context")
SYSTEM_COLUMNS = ("system", "system_prompt")
KNOWN_COLUMNS = frozenset(
    {*MESSAGE_COLUMNS, *EXTRA_COLUMNS, *SYSTEM_COLUMNS, "prompt", "completion", "text"}
    | {name for asked, answers in PAIRS for name in (asked, *answers)}
)
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
}
REFUSED_KEYS = ("tools", "functions", "label", "weight", "train")
COLUMN_FIX = (
    "rename them, or set DatasetConfig's messages_column, or context_column and response_column, "
    "in the tuning ConfigMap"
)


class Normalised(NamedTuple):
    """A row in its shape, and what of it is not used: columns, and keys as `messages[].KEY`."""

    row: NormalRow
    unused: frozenset[str]


class _Columns(dict[str, object]):
    """A row that remembers which columns were read, and which keys of its messages were not."""

    def __init__(self, values: Mapping[str, object]) -> None:
        super().__init__(values)
        self.read: set[str] = set()
        self.unused_keys: set[str] = set()

    def __getitem__(self, name: str) -> object:
        self.read.add(name)
        return super().__getitem__(name)

    def unused(self) -> frozenset[str]:
        """What holds something and was not read."""
        names = {
            name
            for name, value in self.items()
            if name not in self.read and _holds_something(name, value)
        }
        return frozenset(names | self.unused_keys)


def normalise(values: Mapping[str, object], columns: DatasetColumns) -> Normalised:
    """The row in one of the three shapes, and what of it is not used.

    Raises: Unfit: with the reason, in words for the person who made the row.
    """
    lowered = _Columns({name.strip().lower(): value for name, value in values.items()})
    _refuse_what_changes_meaning(lowered, ROW_WORDS, "the row")
    if any((columns.messages, columns.response, columns.text)):
        given = _Columns(values)
        return Normalised(_configured(given, columns), given.unused())
    return Normalised(_recognised(lowered, values), lowered.unused())


def _configured(values: _Columns, columns: DatasetColumns) -> NormalRow:
    if columns.messages:
        found = _column(values, columns.messages)
        return {"messages": _messages(found, columns.messages, values.unused_keys)}
    if columns.context and columns.response:
        asked = _text(_column(values, columns.context), columns.context)
        return _exchange(asked, _text(_column(values, columns.response), columns.response))
    named = columns.text or columns.response or ""
    return {"text": _text(_column(values, named), named)}


def _holds_something(name: str, value: object) -> bool:
    """Whether it would be missed: an empty value, or one that changes nothing, asks for nothing."""
    if name in REFUSED_KEYS and (name != "label" or isinstance(value, bool)):
        return _changes_meaning(value)
    return value is not None and value not in ("", [], {})


def _recognised(values: _Columns, original: Mapping[str, object]) -> NormalRow:
    for name in MESSAGE_COLUMNS:
        if name in values:
            messages = _messages(values[name], name, values.unused_keys)
            return {"messages": _with_system(values, messages)}
    if "prompt" in values and "completion" in values:
        return _prompt_completion(values)
    for asked, answers in PAIRS:
        answer = next((name for name in answers if name in values), None)
        if asked in values and answer:
            return _pair(values, asked, answer)
    if "text" in values:
        return {"text": _text(values["text"], "text")}
    raise Unfit(f"no column to train on (found: {_listed(original)}); {COLUMN_FIX}")


def _refuse_what_changes_meaning(
    values: Mapping[str, object], words: Mapping[str, str], where: str
) -> None:
    """Nothing when no key says that the row or message is not simply to be learned.

    Neutral values pass: null, an empty list, a weight of 1, true.
    Raises: Unfit.
    """
    for name in REFUSED_KEYS:
        value = values.get(name)
        is_label_of_a_class = name == "label" and not isinstance(value, bool)
        if words.get(name) != "refused" or not _changes_meaning(value) or is_label_of_a_class:
            continue
        raise Unfit(
            f"{name} of {where} would be passed over, which changes what is to be learned; "
            f"leave out the row, or {name} where it does not matter"
        )


def _changes_meaning(value: object) -> bool:
    if value is None or value is True:
        return False
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return value != 1
    return not isinstance(value, str | Sequence | Mapping) or bool(value)


def _with_system(values: Mapping[str, object], messages: list[Message]) -> list[Message]:
    """The messages behind the system prompt of a column beside them."""
    system = _optional(values, SYSTEM_COLUMNS)
    if not system or messages[0] == {"role": "system", "content": system}:
        return messages
    if messages[0]["role"] == "system":
        raise Unfit("there is a system message and another system prompt beside it; keep one")
    return [{"role": "system", "content": system}, *messages]


def _prompt_completion(values: _Columns) -> NormalRow:
    prompt, completion = values["prompt"], values["completion"]
    if isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes):
        turns = completion if isinstance(completion, Sequence) else [completion]
        if isinstance(completion, str):
            turns = [{"role": "assistant", "content": completion}]
        return {
            "messages": _messages([*prompt, *turns], "prompt and completion", values.unused_keys)
        }
    return {"prompt": _text(prompt, "prompt"), "completion": _text(completion, "completion")}


def _pair(values: Mapping[str, object], asked: str, answer: str) -> NormalRow:
    parts = [_text(values[asked], asked)]
    extra = _optional(values, [name for name in EXTRA_COLUMNS if name not in (asked, answer)])
    if extra and asked == "question":
        parts.insert(0, extra)
    elif extra:
        parts.append(extra)
    reply = _text(_first_answer(values[answer]) if answer == "answers" else values[answer], answer)
    return _exchange("\n\n".join(parts), reply, system=_optional(values, SYSTEM_COLUMNS))


def _exchange(asked: str, reply: str, *, system: str = "") -> NormalRow:
    opening = [{"role": "system", "content": system}] if system else []
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return {"messages": opening + turns}


def _optional(values: Mapping[str, object], names: Sequence[str]) -> str:
    for name in names:
        value = values[name] if name in values else None  # noqa: SIM401  get() is no reading
        if value is not None and value != "":
            text = _unempty(value, name)
            if text.strip():
                return text
    return ""


def _first_answer(value: object) -> object:
    """The first of several answers: a list, or SQuAD's {"text": [...]}."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value[0] if value else None
    return value


def _messages(value: object, column: str, unused_keys: set[str]) -> list[Message]:
    if isinstance(value, str):
        value = _decoded(value, column)
    if value is None:
        raise Unfit(f"{column} is null")
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise Unfit(f"{column} is {kind_of(value)}, not a list of messages")
    if not value:
        raise Unfit(f"{column} is an empty list")
    messages = [_message(item, f"message {number}") for number, item in enumerate(value, 1)]
    unused_keys.update(f"messages[].{key}" for item in value for key in _unused_keys(item))
    if not any(message["role"] == "assistant" for message in messages):
        raise Unfit(f"{column} has no assistant turn, so there is nothing to learn")
    if messages[0]["role"] == "assistant":
        # No chat template asks for an answer to nothing.
        raise Unfit(
            "message 1 is the assistant's, with no question before it; begin with a user turn"
        )
    return messages


def _unused_keys(message: Mapping[str, object]) -> list[str]:
    return [
        name
        for name, value in message.items()
        if MESSAGE_WORDS.get(name) != "honoured" and _holds_something(name, value)
    ]


def _decoded(value: str, column: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        hint = " (it looks like Python's own notation; write it with json.dumps)"
        raise Unfit(
            f"{column} is text that is not JSON{hint if value.lstrip()[:2] == '[{' else ''}"
        ) from None


def _message(item: object, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise Unfit(f"{where} is {kind_of(item)}, not an object with role and content")
    role = item.get("role", item.get("from"))
    if role is None:
        raise Unfit(f"{where} has no role (found: {_listed(item)})")
    if not isinstance(role, str) or role.strip().lower() not in ROLES:
        raise Unfit(
            f"{where} has the unknown role {str(role)[:40]!r}; use system, user, assistant or tool"
        )
    if item.get("tool_calls") or item.get("function_call"):
        raise Unfit(f"{where} calls a tool, which cannot be trained on; write it as content")
    _refuse_what_changes_meaning(item, MESSAGE_WORDS, where)
    if "content" not in item and "value" not in item:
        raise Unfit(f"{where} has no content (found: {_listed(item)})")
    named = f"the content of {where} ({role})"
    content = _joined_parts(item.get("content", item.get("value")), named)
    return {"role": ROLES[role.strip().lower()], "content": _text(content, named)}


def _joined_parts(content: object, named: str) -> object:
    """The text of a content given as a list of typed parts."""
    if not isinstance(content, Sequence) or isinstance(content, str | bytes):
        return content
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise Unfit(f"{named} has a part that is not text; only text can be trained on")
        texts.append(part["text"])
    return "".join(texts)


def _column(values: Mapping[str, object], name: str) -> object:
    if name not in values:
        raise Unfit(f"no column {name!r}, which DatasetConfig names (found: {_listed(values)})")
    return values[name]


def _text(value: object, named: str) -> str:
    if value is None:
        raise Unfit(f"{named} is null")
    text = _unempty(value, named)
    if not text.strip():
        raise Unfit(f"{named} is empty")
    return text


def _unempty(value: object, named: str) -> str:
    if not isinstance(value, str):
        raise Unfit(f"{named} is {kind_of(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unfit(f"{named} has half of a \\u surrogate pair, which is no character") from None
    return value


def kind_of(value: object) -> str:
    """What a value is, in words that need no programming."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, bytes):
        return "binary data"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def _listed(values: Mapping[str, object]) -> str:
    names = [str(name)[:40] for name in values]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "nothing"
