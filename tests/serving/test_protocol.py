"""The bodies that clients send."""

from typing import Any

import pytest

from serving.errors import ApiError
from serving.protocol import ChatCompletionRequest, parse

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
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages.1.tool_calls", None),
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
