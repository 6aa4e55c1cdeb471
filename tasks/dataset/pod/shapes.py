"""A raw row -> one of the three shapes that training knows.

    {"messages": [{"role", "content", ...}]}    from messages, ShareGPT conversations, instruction
                                                and question/answer columns; with "tools" where the
                                                row has some
    {"prompt", "completion"}                    kept as they are: no chat template is put around
    {"text"}                                    plain text

Pure. What a row must not have: empty, null or non-text content, an unknown role, no assistant turn.
A turn after the last assistant turn is allowed: it is harmless, as nothing is learned from it.
A row that says of itself that it is not to be learned is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.contract.programs.dataset import DatasetColumns
from tasks.dataset.pod.messages import Message, read_messages, read_tools
from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.values import as_text, holds_something, listed, unempty

NormalRow = dict[str, Any]

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
NOT_LEARNED = ("label", "weight", "train")
TOOL_COLUMNS = ("tools", "functions")
# By these, a row is one message of OpenAssistant's trees.
TREE_COLUMNS = ("message_id", "parent_id", "role", "text")
LOOKED_AT = frozenset({*KNOWN_COLUMNS, *TOOL_COLUMNS, *NOT_LEARNED, *TREE_COLUMNS})
COLUMN_FIX = (
    "rename them, or set DatasetConfig's messages_column, or context_column and response_column, "
    "in the tuning ConfigMap"
)


class LeftOut(Exception):
    """A row that says of itself that it is not to be learned; carries by which word."""


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
            if name not in self.read and holds_something(name, value)
        }
        return frozenset(names | self.unused_keys)


def normalise(values: Mapping[str, object], columns: DatasetColumns) -> Normalised:
    """The row in one of the three shapes, and what of it is not used.

    Raises: Unfit: with the reason, in words for the person who made the row. LeftOut.
    """
    lowered = _Columns({name.strip().lower(): value for name, value in values.items()})
    _leave_out(lowered)
    if any((columns.messages, columns.response, columns.text)):
        given = _Columns(values)
        return Normalised(_with_tools(_configured(given, columns), given), given.unused())
    if all(name in lowered for name in TREE_COLUMNS):
        raise Unfit(
            "it is one message of a tree (message_id, parent_id); make a row of each path from a "
            "tree's root to a leaf, with its messages in order"
        )
    row = _with_tools(_recognised(lowered, values), lowered)
    return Normalised(row, lowered.unused())


def _configured(values: _Columns, columns: DatasetColumns) -> NormalRow:
    if columns.messages:
        found = _column(values, columns.messages)
        messages = read_messages(found, columns.messages, values.unused_keys)
        return {"messages": _with_system(values, messages)}
    if columns.context and columns.response:
        asked = as_text(_column(values, columns.context), columns.context)
        return _exchange(asked, as_text(_column(values, columns.response), columns.response))
    named = columns.text or columns.response or ""
    return {"text": as_text(_column(values, named), named)}


def _recognised(values: _Columns, original: Mapping[str, object]) -> NormalRow:
    for name in MESSAGE_COLUMNS:
        if name in values:
            messages = read_messages(values[name], name, values.unused_keys)
            return {"messages": _with_system(values, messages)}
    if "prompt" in values and "completion" in values:
        return _prompt_completion(values)
    for asked, answers in PAIRS:
        answer = next((name for name in answers if name in values), None)
        if asked in values and answer:
            return _pair(values, asked, answer)
    if "text" in values:
        return {"text": as_text(values["text"], "text")}
    raise Unfit(f"no column to train on (found: {listed(original)}); {COLUMN_FIX}")


def _leave_out(values: _Columns) -> None:
    """Nothing where the row is to be learned. Raises: LeftOut, Unfit."""
    for name in NOT_LEARNED:
        value = values.get(name)
        if value is None or (name == "label" and not isinstance(value, bool)):
            # A label that is no verdict is of a class; it is told as not used.
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise Unfit(f"{name} of the row is {str(value)[:20]!r}; use 0 or 1")
        values.read.add(name)
        if not value:
            raise LeftOut(name)


def _with_tools(row: NormalRow, values: _Columns) -> NormalRow:
    """The row with the tools that stand beside its messages."""
    for name in TOOL_COLUMNS:
        if values.get(name) in (None, "", [], {}):
            continue
        if "messages" not in row:
            raise Unfit(
                f"{name} stands beside no conversation, so that nothing would be made of it"
            )
        if tools := read_tools(values[name], name):
            row = {**row, "tools": tools}
    return row


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
        named = "prompt and completion"
        return {"messages": read_messages([*prompt, *turns], named, values.unused_keys)}
    return {"prompt": as_text(prompt, "prompt"), "completion": as_text(completion, "completion")}


def _pair(values: _Columns, asked: str, answer: str) -> NormalRow:
    parts = [as_text(values[asked], asked)]
    extra = _optional(values, [name for name in EXTRA_COLUMNS if name not in (asked, answer)])
    if extra and asked == "question":
        parts.insert(0, extra)
    elif extra:
        parts.append(extra)
    found = values[answer]
    if answer == "answers":
        found, further = _first_answer(found)
        values.unused_keys |= {"answers[1:]"} if further else set()
    reply = as_text(found, answer)
    return _exchange("\n\n".join(parts), reply, system=_optional(values, SYSTEM_COLUMNS))


def _exchange(asked: str, reply: str, *, system: str = "") -> NormalRow:
    opening = [{"role": "system", "content": system}] if system else []
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return {"messages": opening + turns}


def _optional(values: Mapping[str, object], names: Sequence[str]) -> str:
    for name in names:
        value = values[name] if name in values else None  # noqa: SIM401  get() is no reading
        if value is not None and value != "":
            text = unempty(value, name)
            if text.strip():
                return text
    return ""


def _first_answer(value: object) -> tuple[object, bool]:
    """The first of several answers, as a list or SQuAD's {"text": [...]}; and if others differ."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return (value[0], any(one != value[0] for one in value)) if value else (None, False)
    return value, False


def _column(values: Mapping[str, object], name: str) -> object:
    if name not in values:
        raise Unfit(f"no column {name!r}, which DatasetConfig names (found: {listed(values)})")
    return values[name]
