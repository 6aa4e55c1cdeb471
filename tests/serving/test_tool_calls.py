"""Calls of tools in what a model says, by the forms of model families."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from serving.api.answers import Answering, Usage
from serving.api.completions import ChatShape
from serving.api.openai_protocol import ChatCompletionRequest
from serving.api.protocol import parse
from serving.call_grammar import Offered, grammar_of
from serving.engine import Generation, Piece, Tools
from serving.model.tokenizer import load_tokenizer
from serving.tokens.grammars import Grammars
from serving.tool_calls import CallReader, ToolCall, find_form, find_spelling
from tasks.contract.programs.serving import ServerConfig
from tests.chat.conversations import TOOL
from tests.chat.families import source_of, teacher_of
from tests.serving import toy
from tests.serving.running import Running, by, serve
from tests.serving.test_openai import events_of

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
def calling(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("calling") / "model"
    toy.make_model(folder, template=source_of(HERMES))
    with serve(by(engine, ServerConfig(weights_dir=folder, served_model_name="toy"))) as running:
        yield running


USER: dict[str, Any] = {"role": "user", "content": "a"}
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


def function_of(tool: Any) -> dict[str, Any]:
    return dict(tool["function"])


def test_langchains_second_turn_with_its_tools_is_answered(calling: Running) -> None:
    """As langchain-openai binds tools, and sends back what it was answered and what they said."""
    message = {"role": "assistant", "content": None, "tool_calls": CALLING["tool_calls"]}
    result = {"role": "tool", "tool_call_id": "1", "content": "found 7"}
    body = {
        "model": "toy",
        "messages": [USER, message, result],
        "tools": [{"type": "function", "function": {**function_of(TOOL), "strict": True}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 4,
    }
    answer = calling.client.post("/v1/chat/completions", json=body)
    assert events_of(answer)[-1]["usage"]["completion_tokens"] > 0


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
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    ],
)
def test_what_no_server_here_can_promise_is_refused_by_name(
    server: Running, fields: dict[str, Any], param: str
) -> None:
    answer = server.client.post("/v1/chat/completions", json={"messages": [USER]} | fields)
    assert answer.json()["error"]["param"] == param


class Paint(BaseModel):
    """Paints a thing."""

    class Color(Enum):
        """Of a paint."""

        RED = "red"
        BLUE = "blue"

    color: Color
    coats: Literal[1, 2]


PAINT = openai.pydantic_function_tool(Paint)


def nonsense() -> dict[str, Any]:
    function = {"name": "odd", "parameters": {"type": "nonsense"}}
    return {"type": "function", "function": function}


NAMED = {"type": "function", "function": {"name": "Paint"}}


def client_of(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize(("choice", "tools"), [("required", [PAINT]), (NAMED, [TOOL, PAINT])])
def test_an_answer_that_must_call_is_a_call_by_the_tools_schema(
    calling: Running, choice: Any, tools: Any
) -> None:
    answer = client_of(calling).chat.completions.parse(
        model="toy",
        messages=[{"role": "user", "content": "a"}],
        tools=tools if choice == "required" else [PAINT],
        tool_choice=choice,
        temperature=1.5,
        seed=3,
        max_tokens=300,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    (call,) = calls
    assert isinstance(call.function.parsed_arguments, Paint)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_one_function_of_several_is_called_by_its_name(calling: Running) -> None:
    body = {"messages": [USER], "tools": [TOOL, PAINT], "tool_choice": NAMED, "stream": True}
    answer = calling.client.post("/v1/chat/completions", json=body | {"max_tokens": 300})
    choices = [event["choices"][0] for event in events_of(answer)]
    (call,) = [call for each in choices for call in each["delta"].get("tool_calls", ())]
    assert call["function"]["name"] == "Paint"
    assert Paint.model_validate_json(call["function"]["arguments"]).coats in (1, 2)


def test_responses_call_what_they_must(calling: Running) -> None:
    tool: Any = {"type": "function", **PAINT["function"]}
    answer = client_of(calling).responses.create(
        model="toy",
        input="a",
        store=False,
        tools=[tool],
        tool_choice={"type": "function", "name": "Paint"},
        parallel_tool_calls=False,
        max_output_tokens=300,
    )
    (item,) = answer.output
    assert item.type == "function_call"
    assert Paint.model_validate_json(item.arguments).coats in (1, 2)
    assert answer.parallel_tool_calls is False


def test_strict_arguments_are_held_to_their_schema_and_text_stays_free(calling: Running) -> None:
    body = {"messages": [USER], "tools": [PAINT], "max_tokens": 4}
    answer = calling.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert "x-kaitoflow-unenforced" not in answer.headers


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"tool_choice": "required"}, None, "not among tools"),
        ({"tools": [TOOL], "tool_choice": NAMED}, None, "not among tools"),
        ({"tools": [PAINT], "tool_choice": NAMED, "min_tokens": 3}, None, "no min_tokens"),
        ({"tools": [nonsense()], "tool_choice": "required"}, "tools", "cannot be held"),
    ],
)
def test_a_call_that_cannot_be_had_is_refused(
    calling: Running, fields: dict[str, Any], param: str | None, told: str
) -> None:
    answer = calling.client.post("/v1/chat/completions", json={"messages": [USER]} | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert told in answer.json()["error"]["message"]


def held(family: str, *, must: bool, marks: dict[str, int] | None = None) -> str | None:
    teacher, form = teacher_of(family), tools_of(family).form
    spelling = find_spelling(teacher.template, form, teacher.controls)
    assert spelling
    offered = [Offered("Paint", PAINT["function"]["parameters"], is_held=True)]
    return grammar_of(offered, form=form, spelling=spelling, marks=marks or {}, must=must)


@pytest.mark.parametrize("family", SAID)
def test_a_call_that_is_held_to_a_schema_is_one_that_the_model_would_write(
    family: str, toy_model: Path
) -> None:
    grammar = held(family, must=True)
    assert grammar
    teacher, red = teacher_of(family), {"color": "red", "coats": 2}
    function = {"name": "Paint", "arguments": red}
    call = {"id": "call00001", "type": "function", "function": function}
    talk: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    text = teacher.template.render(talk, tools=[PAINT])
    text = text[text.rindex(tools_of(family).form.begins if family != LLAMA else '{"name"') :]
    written = re.split(r"<\|im_end|<\|eot_id|</s>", text)[0].replace(', "id": "call00001"', "")
    assert takes(grammar, written, toy_model)
    assert not takes(grammar, written.replace("red", "odd"), toy_model)
    assert [one.name for one in read(family, written, size=3)[1]] == ["Paint"]


@pytest.mark.parametrize("family", [HERMES, MISTRAL])
def test_a_call_among_text_is_held_to_its_schema(family: str, toy_model: Path) -> None:
    grammar = held(family, must=False)
    assert grammar
    begins = tools_of(family).form.begins
    assert takes(grammar, "nothing { of that kind", toy_model)
    assert not takes(grammar, f"so {begins} nothing", toy_model)


def test_special_tokens_of_a_call_are_told_by_their_number() -> None:
    assert "<[5]> (call_0)" in (held(MISTRAL, must=True, marks={"[TOOL_CALLS]": 5}) or "")


def test_a_call_that_begins_like_any_object_is_left_to_the_model() -> None:
    assert held(LLAMA, must=False) is None


def takes(grammar: str, text: str, model: Path) -> bool:
    tokenizer = load_tokenizer(model)
    grammars = Grammars(tokenizer, vocabulary_tokens=len(tokenizer), stop_ids=frozenset({2}))
    grammars.check_calls(grammar)
    matcher = grammars.matcher(
        Generation(model="toy", prompt_ids=(), max_tokens=1, grammar=grammar)
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


def test_only_the_first_call_counts_where_one_was_asked_for() -> None:
    tools = replace(tools_of(MISTRAL), most=1)
    text = f"[TOOL_CALLS] [{json.dumps(CALL)}, {json.dumps(CALL)}]"
    assert len(tools.reader().read(text, is_last=True)[1]) == 1
    ends = replace(tools_of(HERMES), most=1)
    cut = SAID[HERMES].partition("</tool_call>")[0]  # where the text stops, which is not told
    assert len(ends.reader().read(cut, is_last=True)[1]) == 1


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
