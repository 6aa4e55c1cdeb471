"""OpenAI's /v1/responses, asked by the `openai` client and by bodies as they are."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseInputParam, ResponseStreamEvent
from pydantic import TypeAdapter

from serving.api.answers import Answering, Usage
from serving.api.protocol import parse
from serving.api.responses import ResponseShape
from serving.api.responses_protocol import ResponsesRequest
from serving.engine import FinishReason, Piece, Sampling
from tests.chat.conversations import TOOL
from tests.serving.running import Running
from tests.serving.test_tool_calls import CALL, HERMES, SAID, tools_of

pytestmark = pytest.mark.both_engines

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
FUNCTION = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
CALLED = {"type": "function_call", "call_id": "1", "name": "lookup", "arguments": "{}"}


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        yield client


def respond(server: Running, **fields: object) -> httpx2.Response:
    body = {"input": "the cat", "model": "toy", "temperature": 0, "max_output_tokens": 12}
    return server.client.post("/v1/responses", json=body | fields)


def test_it_says_what_a_chat_completion_says(server: Running, client: openai.OpenAI) -> None:
    chat = server.chat("the cat", model="toy").json()
    said = client.responses.create(
        input="the cat", model="toy", temperature=0, max_output_tokens=12
    )
    assert said.output_text == chat["choices"][0]["message"]["content"]
    assert said.usage is not None
    assert said.usage.total_tokens == chat["usage"]["total_tokens"]
    assert said.status == "incomplete"
    assert said.incomplete_details is not None
    assert said.incomplete_details.reason == "max_output_tokens"
    assert (said.model, said.to_dict()["store"]) == ("toy", False)


def test_a_stream_comes_to_be_in_the_order_of_openai(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"input": "the dog", "model": "toy", "temperature": 0}
    whole = client.responses.create(**asked, max_output_tokens=9)
    events = list(client.responses.create(**asked, max_output_tokens=9, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]
    assert [event.sequence_number for event in events] == [*range(len(events))]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type == "response.incomplete"
    assert "".join(deltas) == last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


def test_the_clients_own_stream_reads_it_to_the_end(client: openai.OpenAI) -> None:
    with client.responses.stream(input="the fog", model="toy", max_output_tokens=5) as stream:
        kinds = [event.type for event in stream]
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_what_was_answered_is_taken_back_as_it_came(server: Running, client: openai.OpenAI) -> None:
    first = client.responses.create(input="the cat", model="toy", max_output_tokens=4)
    turns: ResponseInputParam = [{"role": "user", "content": "the cat"}]
    turns += first.output  # type: ignore[arg-type] # as OpenAI's documentation has it
    turns.append({"role": "user", "content": "and the dog"})
    second = client.responses.create(
        input=turns, instructions="Be brief.", model="toy", temperature=0, max_output_tokens=4
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "and the dog"},
    ]
    chat = server.chat("", messages=messages, model="toy", max_tokens=4).json()
    assert second.output_text == chat["choices"][0]["message"]["content"]


def test_an_answer_is_held_to_a_schema(server: Running) -> None:
    schema = {"type": "object", "properties": {"is": {"enum": [7]}}, "required": ["is"]}
    form = {"type": "json_schema", "name": "seven", "strict": True} | {
        "schema": schema | {"additionalProperties": False}
    }
    said = respond(server, text={"format": form}, max_output_tokens=60).json()
    assert json.loads(said["output"][0]["content"][0]["text"]) == {"is": 7}
    assert said["text"]["format"]["schema"]["required"] == ["is"]
    assert said["status"] == "completed"


def test_probabilities_stand_beside_the_text(server: Running) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    part = respond(server, **asked).json()["output"][0]["content"][0]
    raw = bytes(byte for each in part["logprobs"] for byte in each["bytes"])
    assert raw.decode(errors="replace") == part["text"]
    assert {len(each["top_logprobs"]) for each in part["logprobs"]} == {2}


@pytest.mark.parametrize(
    ("fields", "param", "fix"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "items of earlier turns"),
        ({"conversation": "conv_1"}, "conversation", "items of earlier turns"),
        ({"store": True}, "store", "set it to false"),
        ({"background": True}, "background", "ask for a stream"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "write it into instructions"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "leave it out"),
        ({"max_tokens": 5}, "max_tokens", "no option of this endpoint"),
        ({"tools": [{"type": "web_search"}]}, "tools.0", "of type function"),
        ({"tool_choice": "any"}, "tool_choice", "one function by its name"),
        ({"tools": [FUNCTION]}, "tools", "no place for them"),
        ({"input": [CALLED | {"type": "reasoning"}]}, "input.0", "function_call_output"),
        (
            {"input": [CALLED | {"arguments": "[1]"}]},
            "input.0.function_call.arguments",
            "a JSON object",
        ),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": "a" * 500_000}, "input", "shorten the prompt"),
    ],
)
def test_what_it_cannot_honour_is_refused_with_the_fix(
    server: Running, fields: dict[str, Any], param: str, fix: str
) -> None:
    refused = respond(server, **fields)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert param in (error["param"] or "")
    assert fix in error["message"]


def test_hints_and_defaults_that_clients_send_are_let_pass(server: Running) -> None:
    hints = {
        "store": False,
        "metadata": {"run": "7"},
        "service_tier": "auto",
        "truncation": "disabled",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": None},
        "stream_options": {"include_obfuscation": False},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "previous_response_id": None,
    }
    said = respond(server, **hints)
    assert said.status_code == 200, said.text
    assert said.json()["metadata"] == {"run": "7"}


def shape() -> ResponseShape:
    asked = parse(ResponsesRequest, {"input": "a", "tools": [FUNCTION]})
    who = Answering("toy", "toy", None, lambda _: None)
    return ResponseShape(asked, who, sampling=Sampling(), tools=tools_of(HERMES))


def pieces(text: str, *, size: int, reason: FinishReason = "stop") -> Iterator[Piece]:
    for at in range(0, len(text), size):
        ends = reason if at + size >= len(text) else None
        yield Piece(index=0, text=text[at : at + size], tokens=1, finish_reason=ends)


def told(text: str, *, size: int) -> list[ResponseStreamEvent]:
    """The events of an answer, each read as the client reads it."""
    telling = shape()
    lines = [*telling.begin()]
    for piece in pieces(text, size=size):
        lines += telling.go_on(piece)
    lines += telling.end(Usage(1, 2))
    return [EVENT.validate_json(line.partition("data: ")[2]) for line in lines]


@pytest.mark.parametrize("size", [1, 1000])
def test_a_call_is_an_item_of_its_own_behind_what_is_said(size: int) -> None:
    text = SAID[HERMES].removesuffix("<|im_end|>")
    last = told(text + "\n" + text, size=size)[-1]
    assert last.type == "response.completed"
    calls = [item for item in last.response.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [CALL["arguments"]] * 2
    assert last.response.output[0].type == "message"
    assert last.response.output_text.split() == ["I", "look."] * 2


def test_each_call_is_told_while_the_answer_goes_on() -> None:
    text = SAID[HERMES].removesuffix("<|im_end|>").removeprefix("I look.\n")
    events = told(text, size=3)
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


def test_calls_and_results_come_back_as_one_turn_and_its_answer() -> None:
    said = {"type": "message", "role": "assistant", "content": "I look."}
    output = [{"type": "input_text", "text": "found "}, {"type": "input_text", "text": "7"}]
    result = {"type": "function_call_output", "call_id": "1", "output": output}
    asked = parse(ResponsesRequest, {"input": [said, CALLED, result]})
    spoken, answered = (message.for_template() for message in asked.chat.messages)
    assert spoken["content"] == "I look."
    assert spoken["tool_calls"][0]["function"] == {"name": "lookup", "arguments": {}}
    assert answered == {"role": "tool", "content": "found 7", "tool_call_id": "1"}


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    whole = shape().whole([Piece(index=0, text="", tokens=1, finish_reason="stop")], Usage(1, 1))
    response = Response.model_validate(whole)
    assert (response.output_text, len(response.output)) == ("", 1)
