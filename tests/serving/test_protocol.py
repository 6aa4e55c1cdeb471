"""The bodies that clients send."""

from typing import Any

import pytest

from serving.api.kaito_protocol import ChatRequest
from serving.api.openai_protocol import ChatCompletionRequest, CompletionRequest
from serving.api.protocol import parse
from serving.errors import ApiError

USER = {"role": "user", "content": "and then?"}


def content_of(message: dict[str, Any]) -> str:
    body = {"messages": [{"role": "user", "content": "a"}, message, USER]}
    return parse(ChatCompletionRequest, body).messages[1].content


@pytest.mark.parametrize(
    "beside",
    [
        {"refusal": None},
        {"annotations": []},
        {"audio": None, "function_call": None, "tool_calls": None, "annotations": None},
        {"tool_calls": []},
        {"reasoning_content": None},
        {"reasoning": ""},
        {"name": None},
    ],
)
def test_what_an_answer_carries_beside_its_text_is_taken_back(beside: dict[str, Any]) -> None:
    assert content_of({"role": "assistant", "content": "a cat", **beside}) == "a cat"


@pytest.mark.parametrize("message", [{"content": None}, {}, {"content": []}])
def test_an_answer_without_text_is_an_empty_one(message: dict[str, Any]) -> None:
    assert not content_of({"role": "assistant", **message})


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "user", "content": None}, "messages.1.content", "invalid_value"),
        ({"role": "user"}, "messages.1.content", "invalid_value"),
        ({"role": "user", "content": "a", "name": "Ann"}, "messages.1.name", None),
        ({"role": "user", "content": "a", "tool_calls": [{}]}, "messages.1.tool_calls", None),
        ({"role": "user", "content": "a", "tool_call_id": "1"}, "messages.1.tool_call_id", None),
        (
            {"role": "assistant", "tool_calls": [{"id": "1"}]},
            "messages.1.tool_calls.0.function",
            "invalid_value",
        ),
        ({"role": "assistant", "content": "a", "refusal": "no"}, "messages.1.refusal", None),
        ("hello", "messages.1", "invalid_value"),
    ],
)
def test_what_a_message_means_beyond_its_text_is_refused_by_name(
    message: Any, param: str, code: str | None
) -> None:
    with pytest.raises(ApiError) as refused:
        content_of(message)
    assert refused.value.param == param
    assert refused.value.code == (code or "unsupported_parameter")


def refusal_of(body: dict[str, Any], model: type[Any] = ChatCompletionRequest) -> ApiError:
    with pytest.raises(ApiError) as refused:
        parse(model, body)
    assert refused.value.status == 400
    return refused.value


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": "1"},
        {"seed": True},
        {"temperature": "1"},
        {"temperature": 10**400},
        {"max_tokens": "4"},
        {"max_tokens": 4.5},
        {"n": True},
        {"stream": "yes"},
        {"stream": 1},
        {"stop": 3},
        {"stop": ["a", None]},
        {"stop_token_ids": ["1"]},
        {"ignore_eos": "true"},
        {"min_p": 2},
        {"stream_options": "usage"},
        {"model": 7},
    ],
)
def test_a_value_of_another_type_is_refused_by_name(fields: dict[str, Any]) -> None:
    error = refusal_of({"messages": [USER], **fields})
    assert error.param is not None
    assert error.param.split(".")[0] == next(iter(fields))


def test_a_whole_number_may_be_written_as_16_0() -> None:
    assert parse(ChatCompletionRequest, {"messages": [USER], "max_tokens": 16.0}).max_tokens == 16


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (
            ChatCompletionRequest,
            {"messages": [{**USER, "content": "\ud800"}]},
            "messages.0.content",
        ),
        (
            ChatCompletionRequest,
            {"messages": [{**USER, "content": [{"type": "text", "text": "a\udfff"}]}]},
            "messages.0.content.0.text",
        ),
        (ChatCompletionRequest, {"messages": [USER], "model": "\ud83d"}, "model"),
        (ChatCompletionRequest, {"messages": [USER], "stop": ["\ud83d"]}, "stop.0"),
        (ChatCompletionRequest, {"messages": [USER], "\ud83d": 1}, "a key"),
        (CompletionRequest, {"prompt": ["a", "\udc00"]}, "prompt.1"),
        (ChatRequest, {"prompt": "\ud800"}, "prompt"),
        (
            ChatRequest,
            {"prompt": "a", "generate_kwargs": {"stop_strings": "\ud800"}},
            "generate_kwargs.stop_strings",
        ),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(
    model: type[Any], body: dict[str, Any], param: str
) -> None:
    assert refusal_of(body, model).param == param


@pytest.mark.parametrize(
    "prompt", [None, 1, "", [], [""], [[]], ["a", 1], [1, "a"], [1.5], [True], [["a"]], {"a": 1}]
)
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    assert refusal_of({"prompt": prompt}, CompletionRequest).param == "prompt"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_a_prompt_is_a_text_or_token_ids_or_several(prompt: Any, prompts: list[Any]) -> None:
    assert parse(CompletionRequest, {"prompt": prompt}).prompt == prompts


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://x"}, "text": "a"},
        {"type": "image_url", "image_url": {"url": "http://x"}},
        {"type": "text", "text": "a", "image_url": {"url": "http://x"}},
        {"type": "input_audio", "text": "a"},
        {"type": "text", "text": None},
        "a",
    ],
)
def test_a_part_that_is_no_text_is_not_taken_for_one(part: Any) -> None:
    error = refusal_of({"messages": [{**USER, "content": [part]}]})
    assert (error.param, str(error)) == (
        "messages.0.content",
        "messages.0.content: only text parts are supported",
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"echo": True}, "echo"),
        ({"suffix": "b"}, "suffix"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_would_change_the_text_elsewhere_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    assert refusal_of({"messages": [USER], **fields}).code == "unsupported_parameter"
    assert refusal_of({"messages": [USER], **fields}).param == param


def test_an_endless_key_is_not_said_back_whole() -> None:
    assert len(str(refusal_of({"messages": [USER], "k" * 900_000: 1}))) < 200


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": "a", "generate_kwargs": "x", "top_k": 2}, "generate_kwargs"),
        ({"prompt": "a", "generate_kwargs": {"top_k": 3}, "top_k": 2}, "top_k is given twice"),
        ({"prompt": "a", "eos_token_id": True}, "eos_token_id"),
    ],
)
def test_options_of_chat_that_cannot_be_meant_are_refused(body: dict[str, Any], told: str) -> None:
    assert told in str(refusal_of(body, ChatRequest))


def test_two_limits_that_differ_are_refused() -> None:
    body = {"messages": [USER], "max_tokens": 4, "max_completion_tokens": 5}
    assert "give one of them" in str(refusal_of(body))
