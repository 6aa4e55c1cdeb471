"""Calls of tools in what a model says, by the forms of model families."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from serving.api.answers import Answering, Usage
from serving.api.completions import ChatShape
from serving.api.openai_protocol import ChatCompletionRequest
from serving.api.protocol import parse
from serving.engine import Piece, Tools
from serving.tool_calls import CallReader, ToolCall, find_form
from tasks.contract.programs.serving import ServerConfig
from tests.chat.conversations import TOOL
from tests.chat.families import source_of, teacher_of
from tests.serving import toy
from tests.serving.running import Running, serve

pytestmark = pytest.mark.both_engines

HERMES, LLAMA, MISTRAL = "qwen 2.5", "llama 3.1", "mistral nemo"
CALL = {"name": "lookup", "arguments": {"key": "<b>"}}
SAID = {
    HERMES: f"I look.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call><|im_end|>",
    LLAMA: '{"name": "lookup", "parameters": {"key": "<b>"}}',
    MISTRAL: f"[TOOL_CALLS] [{json.dumps(CALL)}]</s>",
    "ministral 3": '[TOOL_CALLS]lookup[ARGS]{"key": "<b>"}',
}


def tools_of(family: str) -> Tools:
    teacher = teacher_of(family)
    form = find_form(teacher.template, teacher.controls)
    assert form, family
    return Tools(form, teacher.controls)


def read(family: str, text: str, *, size: int) -> tuple[str, list[ToolCall]]:
    """What is said and called where a text comes in parts of so many characters."""
    tools = tools_of(family)
    reader = CallReader(tools.form, tools.specials)
    parts = [reader.add(text[at : at + size]) for at in range(0, len(text), size)]
    parts.append(reader.finish())
    return "".join(said for said, _ in parts), [call for _, calls in parts for call in calls]


@pytest.mark.parametrize("family", SAID)
def test_a_call_is_read_in_the_form_that_the_template_shows(family: str) -> None:
    said, (call,) = read(family, SAID[family], size=10_000)
    assert (call.name, json.loads(call.arguments)) == ("lookup", {"key": "<b>"})
    assert said.strip() == ("I look." if family == HERMES else "")


def test_a_call_is_read_the_same_letter_by_letter() -> None:
    text = SAID[HERMES].removesuffix("<|im_end|>") + "\nand <tool_cal"
    assert read(HERMES, text, size=1) == read(HERMES, text, size=10_000)
    assert read(HERMES, text, size=1)[0] == "I look.\n\nand <tool_cal"


def test_several_calls_are_several() -> None:
    text = SAID[HERMES] + "\n" + SAID[HERMES]
    assert len(read(HERMES, text, size=7)[1]) == 2
    assert len(read(LLAMA, "; ".join([SAID[LLAMA]] * 2), size=7)[1]) == 2
    assert (
        len(read(MISTRAL, f"[TOOL_CALLS] [{json.dumps(CALL)}, {json.dumps(CALL)}]", size=9)[1]) == 2
    )


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (HERMES, "<tool_call>no object</tool_call>"),
        (HERMES, '<tool_call>{"name": "lookup"'),
        (HERMES, '<tool_call>{"name": 7}</tool_call> a'),
        (LLAMA, '{"name": "Ann", "age": 7}'),
        (LLAMA, 'so {"name": "lookup", "parameters": {}}'),
        (LLAMA, "{" * 5000),
        (MISTRAL, "[TOOL_CALLS] nothing"),
    ],
)
def test_what_only_looks_like_a_call_is_said(family: str, text: str) -> None:
    assert read(family, text, size=5) == (text, [])


@pytest.mark.parametrize("family", ["chatml", "gemma 2", "phi 4", "zephyr"])
def test_a_template_without_tools_has_no_form(family: str) -> None:
    teacher = teacher_of(family)
    assert find_form(teacher.template, teacher.controls) is None


def shape() -> ChatShape:
    return ChatShape(Answering("toy", "toy", None, lambda _: None), tools=tools_of(HERMES))


def pieces(text: str) -> Iterator[Piece]:
    for at, letter in enumerate(text):
        reason = "stop" if at == len(text) - 1 else None
        yield Piece(index=0, text=letter, tokens=1, finish_reason=reason)  # type: ignore[arg-type]


def test_an_answer_tells_its_calls_as_openai_does() -> None:
    text = SAID[HERMES].removesuffix("<|im_end|>")
    whole = Piece(index=0, text=text, tokens=9, finish_reason="stop")
    (choice,) = shape().whole([whole], Usage(0, 0))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look.\n"
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert json.loads(call["function"]["arguments"]) == CALL["arguments"]


def test_a_stream_tells_each_call_with_its_place() -> None:
    told, text = shape(), SAID[HERMES].removesuffix("<|im_end|>")
    events = [told.part(piece) for piece in pieces(text + text)]
    choices = [event["choices"][0] for event in events if event]
    assert len(choices) < len(text)
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert choices[-1]["finish_reason"] == "tool_calls"
    said = "".join(choice["delta"].get("content", "") for choice in choices)
    assert said == "I look.\nI look.\n"


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("calling") / "model"
    toy.make_model(folder, template=source_of(HERMES))
    with serve(ServerConfig(weights_dir=folder, served_model_name="toy")) as running:
        yield running


USER = {"role": "user", "content": "a"}
CALLING = {"role": "assistant", "content": None} | {
    "tool_calls": [
        {
            "id": "1",
            "type": "function",
            "function": {"name": "lookup", "arguments": '{"key": "b"}'},
        }
    ]
}


def test_tools_calls_and_results_stand_in_what_the_model_reads(calling: Running) -> None:
    result = {"role": "tool", "tool_call_id": "1", "content": "found 7"}
    body = {"messages": [USER, CALLING, result], "tools": [TOOL], "model": "toy"}
    told = calling.client.post("/tokenize", json=body).json()["tokens"]
    text = calling.engine.prompts.decode(told)
    assert '"name": "lookup"' in text
    assert "Looks up." in text
    assert "found 7" in text
    answer = calling.client.post("/v1/chat/completions", json=body | {"max_tokens": 4})
    assert answer.status_code == 200, answer.text
    unread = calling.client.post("/tokenize", json=body | {"tool_choice": "none"}).json()
    assert unread["count"] < len(told)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"messages": [USER, CALLING, USER]},
        {"messages": [USER, {"role": "tool", "tool_call_id": "1", "content": "7"}]},
    ],
)
def test_a_model_without_tools_refuses_them_by_name(
    server: Running, fields: dict[str, Any]
) -> None:
    body = {"messages": [USER], "model": "toy", "max_tokens": 2} | fields
    answer = server.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"
    chat = {key: value for key, value in body.items() if key in ("messages", "model")}
    if "tools" not in fields:
        assert server.client.post("/chat", json=chat).status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "lookup"}}}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    ],
)
def test_what_no_server_here_can_promise_is_refused_by_name(
    server: Running, fields: dict[str, Any], param: str
) -> None:
    answer = server.client.post("/v1/chat/completions", json={"messages": [USER]} | fields)
    assert answer.json()["error"]["param"] == param


def test_arguments_that_are_no_object_are_refused_by_name(server: Running) -> None:
    function = {"name": "lookup", "arguments": "[1]"}
    calling = {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}
    body = {"messages": [USER, calling, USER]}
    error = server.client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "messages.1.tool_calls.0.function.arguments"


def test_what_the_server_says_of_a_call_is_taken_back() -> None:
    text = SAID[HERMES].removesuffix("<|im_end|>")
    whole = Piece(index=0, text=text, tokens=9, finish_reason="stop")
    message = shape().whole([whole], Usage(0, 0))["choices"][0]["message"]
    asked = parse(ChatCompletionRequest, {"messages": [USER, message], "tools": [TOOL]})
    (call,) = asked.messages[1].for_template()["tool_calls"]
    assert call["function"] == {"name": "lookup", "arguments": {"key": "<b>"}}
