"""Rows of every shape become one of three; a row that cannot says why."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contract.programs.dataset import DatasetColumns
from tasks.contract.row_words import MESSAGE_WORDS, ROW_WORDS
from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.shapes import KNOWN_COLUMNS, REFUSED_KEYS, normalise
from tests.dataset.web import chat

ANY = DatasetColumns()
CHAT = chat("q", "a")
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("row", "normal"),
    [
        (CHAT, CHAT),
        ({"messages": json.dumps(CHAT["messages"])}, CHAT),
        ({"conversations": SHAREGPT}, CHAT),
        ({"conversations": json.dumps(SHAREGPT)}, CHAT),
        ({"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a"}),
        ({"instruction": "q", "output": "a"}, CHAT),
        ({"instruction": "q", "input": "", "response": "a"}, CHAT),
        ({"instruction": "q", "input": "c", "output": "a"}, chat("q\n\nc", "a")),
        ({"instruction": "q", "context": "c", "response": "a"}, chat("q\n\nc", "a")),
        ({"Question": "q", "Answer": "a"}, CHAT),
        ({"question": "q", "answers": ["a", "b"]}, CHAT),
        ({"question": "q", "context": "c", "answers": {"text": ["a"]}}, chat("c\n\nq", "a")),
        ({"text": "q"}, {"text": "q"}),
    ],
)
def test_a_known_shape_is_recognised(row: Mapping[str, object], normal: object) -> None:
    assert normalise(row, ANY).row == normal


@pytest.mark.parametrize(
    ("columns", "row", "normal"),
    [
        (DatasetColumns(context="x", response="y"), {"x": "q", "y": "a"}, CHAT),
        (DatasetColumns(messages="m"), {"m": CHAT["messages"], "text": "no"}, CHAT),
        (DatasetColumns(text="body"), {"body": "q"}, {"text": "q"}),
        (DatasetColumns(response="y"), {"y": "a"}, {"text": "a"}),
    ],
)
def test_configured_columns_win(
    columns: DatasetColumns, row: Mapping[str, object], normal: object
) -> None:
    assert normalise(row, columns).row == normal


def turn(**words: object) -> dict[str, object]:
    """A conversation whose answer has these keys too."""
    asked, answered = CHAT["messages"]
    return {"messages": [asked, {**answered, **words}]}


@pytest.mark.parametrize(
    "row", [turn(weight=1), turn(tool_calls=None), CHAT | {"tools": []}, CHAT | {"label": True}]
)
def test_words_that_change_nothing_are_let_pass(row: Mapping[str, object]) -> None:
    assert normalise(row, ANY).row == CHAT


def test_a_system_prompt_beside_a_conversation_is_its_first_message() -> None:
    normal = normalise({"conversations": SHAREGPT, "system": "Be a pirate."}, ANY).row
    system = {"role": "system", "content": "Be a pirate."}
    assert normal == {"messages": [system, *CHAT["messages"]]}


def test_every_word_that_is_refused_is_looked_for() -> None:
    known = {name: words[name] for words in (ROW_WORDS, MESSAGE_WORDS) for name in words}
    refused = {name for name, treatment in known.items() if treatment == "refused"}
    assert refused - {"tool_calls", "function_call"} == set(REFUSED_KEYS)
    assert {name for name, word in ROW_WORDS.items() if word == "honoured"} == set(KNOWN_COLUMNS)


@pytest.mark.parametrize(
    ("columns", "row", "unused"),
    [
        (ANY, CHAT, set()),
        (ANY, CHAT | {"id": 7, "score": 0.5, "empty": "", "null": None}, {"id", "score"}),
        (ANY, CHAT | {"text": "said twice"}, {"text"}),
        (ANY, {"question": "q", "answer": "a", "input": "c", "context": "d"}, {"context"}),
        (ANY, {"prompt": "q", "completion": "a", "system": "s"}, {"system"}),
        (ANY, {"text": "q", "label": "joy"}, {"label"}),
        (ANY, {"text": "q", "label": True, "weight": 1, "tools": []}, set()),
        (
            ANY,
            turn(name="Ann", thinking="hm", weight=1),
            {"messages[].name", "messages[].thinking"},
        ),
        (DatasetColumns(text="body"), {"body": "q", "Text": "no"}, {"Text"}),
        (DatasetColumns(messages="m"), {"m": CHAT["messages"], "system": "s"}, {"system"}),
    ],
)
def test_what_of_a_row_is_not_used_is_told(
    columns: DatasetColumns, row: Mapping[str, object], unused: set[str]
) -> None:
    assert normalise(row, columns).unused == unused


def one(role: object, content: object) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (one("user", "q"), "messages has no assistant turn, so there is nothing to learn"),
        (one("wizard", "q"), "message 1 has the unknown role 'wizard'; use system, user"),
        (one("assistant", ""), r"the content of message 1 \(assistant\) is empty"),
        (one("assistant", None), r"the content of message 1 \(assistant\) is null"),
        (one("assistant", 3), "is a number, not text"),
        (one("assistant", "\ud800"), "half of a .* surrogate pair"),
        (one("assistant", "Hello!"), "message 1 is the assistant's, with no question before it"),
        (CHAT | {"tools": [{"type": "function"}]}, "tools of the row would be passed over"),
        (CHAT | {"label": False}, "label of the row would be passed over"),
        (CHAT | {"weight": 0}, "weight of the row would be passed over"),
        (turn(weight=0), "weight of message 2 would be passed over, which changes what"),
        (turn(train=False), "train of message 2 would be passed over"),
        (turn(function_call={"name": "f"}), "message 2 calls a tool"),
        (
            {"messages": [{"role": "system", "content": "s"}, *CHAT["messages"]], "system": "t"},
            "a system message and another system prompt",
        ),
        ({"messages": []}, "messages is an empty list"),
        ({"messages": None}, "messages is null"),
        ({"messages": {"role": "user"}}, "messages is an object, not a list of messages"),
        ({"messages": ["hi"]}, "message 1 is text, not an object with role and content"),
        ({"messages": [{"content": "a"}]}, r"message 1 has no role \(found: content\)"),
        ({"messages": [{"role": "user"}]}, r"message 1 has no content \(found: role\)"),
        ({"messages": "[{'role': 'user'}]"}, "not JSON .*write it with json.dumps"),
        ({"text": " \n"}, "text is empty"),
        ({"text": b"x"}, "text is binary data, not text"),
        ({"prompt": "q", "completion": None}, "completion is null"),
        ({"question": "q", "answers": []}, "answers is null"),
        ({"instruction": ["q"], "output": "a"}, "instruction is a list, not text"),
    ],
)
def test_a_row_that_cannot_be_trained_on_says_why(row: Mapping[str, object], reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        normalise(row, ANY)


def test_unknown_columns_are_named_with_the_options_that_help() -> None:
    with pytest.raises(Unfit, match="found: frage, antwort") as failure:
        normalise({"frage": "q", "antwort": "a"}, ANY)
    for option in ("messages_column", "context_column", "response_column"):
        assert option in str(failure.value)


def test_a_configured_column_that_is_not_there_is_named() -> None:
    with pytest.raises(Unfit, match=r"no column 'q', which DatasetConfig names \(found: text\)"):
        normalise({"text": "a"}, DatasetColumns(context="q", response="r"))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "question", "answers", "text", "x"]
)


@given(st.dictionaries(NAMES, VALUES, max_size=3))
def test_any_row_is_either_normal_or_unfit(row: dict[str, object]) -> None:
    try:
        normal = normalise(row, ANY).row
    except Unfit:
        return
    assert set(normal) in ({"messages"}, {"prompt", "completion"}, {"text"})
    assert json.loads(json.dumps(normal)) == normal
