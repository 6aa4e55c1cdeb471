"""Rows of every shape become one of three; a row that cannot says why."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contract.programs.dataset import DatasetColumns
from tasks.contract.row_words import ROW_WORDS
from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.shapes import KNOWN_COLUMNS, NOT_LEARNED, TOOL_COLUMNS, LeftOut, normalise
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


def test_every_word_that_is_honoured_is_looked_for() -> None:
    honoured = {name for name, treatment in ROW_WORDS.items() if treatment == "honoured"}
    assert honoured == {*KNOWN_COLUMNS, *NOT_LEARNED, *TOOL_COLUMNS}


@pytest.mark.parametrize("word", [{"label": False}, {"weight": 0}, {"train": False}])
def test_a_row_that_is_not_to_be_learned_is_left_out(word: dict[str, object]) -> None:
    with pytest.raises(LeftOut, match=next(iter(word))):
        normalise(CHAT | word, ANY)


@pytest.mark.parametrize("word", [{"weight": 0}, {"train": False}, {"training": 0}])
def test_a_turn_that_is_not_to_be_learned_is_kept_with_weight_0(word: dict[str, object]) -> None:
    asked, answered = CHAT["messages"]
    assert normalise(turn(**word), ANY).row == {"messages": [asked, {**answered, "weight": 0}]}


@pytest.mark.parametrize("word", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_under_one_name(word: str) -> None:
    asked, answered = CHAT["messages"]
    messages = [asked, {**answered, "reasoning_content": "hm"}]
    assert normalise(turn(**{word: "hm\n"}), ANY).row == {"messages": messages}
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    assert normalise(turn(content=parts), ANY).row == {"messages": messages}


FUNCTION = {"name": "f", "arguments": {"x": 1}}
CALL = {"id": "call00001", "type": "function", "function": FUNCTION}
RESULT: dict[str, object] = {
    "role": "tool",
    "content": "3",
    "tool_call_id": "call00001",
    "name": "f",
}
CALLED: list[dict[str, object]] = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    RESULT,
    {"role": "assistant", "content": "a"},
]


@pytest.mark.parametrize(
    "calling",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [{"function": FUNCTION}]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": FUNCTION}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "call00001", "function": {"name": "f", "arguments": '{"x": 1}'}}],
        },
        {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x": 1}'}},
        {"from": "function_call", "value": json.dumps(FUNCTION)},
    ],
)
@pytest.mark.parametrize(
    "result",
    [RESULT, {"from": "observation", "value": "3"}, {"role": "function", "content": "3"}],
)
def test_calls_and_results_are_read_however_they_are_written(
    calling: dict[str, object], result: dict[str, object]
) -> None:
    messages = [CALLED[0], calling, result, CALLED[3]]
    normal = normalise({"messages": messages}, ANY)
    assert normal.row == {"messages": CALLED}
    assert not normal.unused


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), [TOOL["function"]], json.dumps([TOOL["function"]])]
)
@pytest.mark.parametrize("name", ["tools", "functions"])
def test_tools_beside_a_conversation_are_kept(name: str, tools: object) -> None:
    assert normalise(CHAT | {name: tools}, ANY).row == {**CHAT, "tools": [TOOL]}


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
            turn(name="Ann", mood="glad", weight=1),
            {"messages[].name", "messages[].mood"},
        ),
        (DatasetColumns(text="body"), {"body": "q", "Text": "no"}, {"Text"}),
        (DatasetColumns(messages="m"), {"m": CHAT["messages"], "note": "s"}, {"note"}),
        (ANY, {"question": "q", "answers": ["a", "b"]}, {"answers[1:]"}),
        (ANY, {"question": "q", "answers": ["a", "a"]}, set()),
        (
            ANY,
            turn(content=[{"type": "text", "text": "a", "cache": 1}]),
            {"messages[].content[].cache"},
        ),
        (
            ANY,
            {"messages": [*CALLED[:3], turn(index=1)["messages"][1]]},  # type: ignore[index]
            {"messages[].index"},
        ),
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
        (CHAT | {"tools": [{"type": "function"}]}, "tool 1 of tools has no name"),
        ({"text": "t", "tools": [TOOL]}, "tools stands beside no conversation"),
        (CHAT | {"weight": 0.5}, "weight of the row is '0.5'; use 0 or 1"),
        (turn(weight=0.5), "weight of message 2 is '0.5'; use 0 or 1"),
        (turn(weight=0, train=True), "message 2 is to be learned and not to be learned"),
        (turn(function_call={"arguments": "{}"}), "message 2 calls a tool without a name"),
        (turn(tool_calls=[{"function": {"name": "f", "arguments": "x"}}]), "that is not JSON"),
        (turn(tool_calls=[{"function": {"name": "f", "arguments": [1]}}]), "not an object"),
        (turn(**{"from": "human"}), "has the role 'assistant' and is from 'human'; keep one"),
        (turn(value="b"), "message 2 has a content and another value; keep one"),
        (turn(thinking="x", reasoning="y"), "message 2 has reasoning in two places; keep one"),
        (
            {"message_id": "1", "parent_id": None, "text": "Hi", "role": "prompter"},
            "one message of a tree",
        ),
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
