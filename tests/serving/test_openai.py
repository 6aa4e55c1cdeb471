"""OpenAI's API over a real socket, on a tiny model."""

import asyncio
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from tests.serving.running import Running

pytestmark = pytest.mark.both_engines

LONG = {"max_tokens": 3000, "min_tokens": 3000}


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_has_text_reason_and_usage(server: Running) -> None:
    answer = server.chat("the cat", n=2).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 24
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 24


def test_a_stream_says_the_same_as_the_whole_answer(server: Running) -> None:
    whole = server.chat("the dog").json()["choices"][0]["message"]["content"]
    options = {"include_usage": True}
    events = events_of(server.chat("the dog", stream=True, stream_options=options))
    deltas = [event["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(deltas) == whole
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["usage"]["completion_tokens"] == 12
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)


def test_a_seed_gives_the_same_text_again(server: Running) -> None:
    texts = [
        server.chat("the fog", temperature=1.5, seed=seed, max_tokens=20).json()["choices"][0]
        for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_stop_text_ends_the_answer_and_is_not_in_it(server: Running) -> None:
    whole = server.chat("the cat", max_tokens=40).json()["choices"][0]["message"]["content"]
    stop = whole[10:13]
    choice = server.chat("the cat", max_tokens=40, stop=[stop]).json()["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_keeps_the_answer_from_repeating(server: Running, penalty: str) -> None:
    plain = server.chat("a", max_tokens=60).json()["choices"][0]["message"]["content"]
    other = server.chat("a", max_tokens=60, **{penalty: 2}).json()["choices"][0]["message"]
    assert len(set(other["content"])) > len(set(plain))


def test_a_text_is_continued_as_it_is(server: Running) -> None:
    body = {"prompt": "the cat sat", "temperature": 0, "max_tokens": 5, "model": "toy"}
    answer = server.client.post("/v1/completions", json=body).json()
    assert answer["object"] == "text_completion"
    assert answer["usage"]["completion_tokens"] == 5


def test_each_adapter_answers_under_its_name(server: Running) -> None:
    models = ["toy", "first", "second.v2"]
    answers = [server.chat("the mat", model=name).json() for name in models]
    assert [answer["model"] for answer in answers] == models
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 3


def test_a_request_without_a_model_gets_the_default(server: Running) -> None:
    assert server.chat("hello").json()["model"] == "first"


def test_strength_nought_is_the_base_model(server: Running) -> None:
    base, faint = (server.chat("the mat", model=name).json() for name in ("toy", "faint"))
    assert base["choices"] == faint["choices"]


def test_an_adapter_with_a_template_is_asked_with_it(server: Running) -> None:
    plain, own = (server.chat("the mat", model=name).json() for name in ("first", "second.v2"))
    assert own["usage"]["prompt_tokens"] < plain["usage"]["prompt_tokens"]


def test_models_are_listed_with_their_parent(server: Running) -> None:
    listed = server.client.get("/v1/models").json()["data"]
    parents = {model["id"]: model["parent"] for model in listed}
    assert parents == {"toy": None, "first": "toy", "second.v2": "toy", "faint": "toy"}
    assert server.client.get("/v1/models/second.v2").json()["root"] == "toy"
    assert server.client.get("/v1/models/").json()["data"] == listed


async def test_rows_in_a_batch_say_what_they_say_alone(many: httpx2.AsyncClient) -> None:
    async def ask(number: int) -> str:
        message = {"role": "user", "content": "the cat and the dog " * (1 + number % 4)}
        body = {
            "messages": [message],
            "model": ("toy", "first", "second.v2")[number % 3],
            "temperature": 0 if number % 2 else 1,
            "seed": number,
            "max_tokens": 10 + 15 * number,
        }
        response = await many.post("/v1/chat/completions", json=body)
        return str(response.json()["choices"][0]["message"]["content"])

    alone = [await ask(number) for number in range(6)]
    assert await asyncio.gather(*map(ask, range(6))) == alone


async def test_more_than_the_queue_holds_is_refused(many: httpx2.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 80, "min_tokens": 80}
    answers = await asyncio.gather(
        *(many.post("/v1/chat/completions", json=body) for _ in range(10))
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 6  # four in work, two waiting
    refused = answers[statuses.index(429)]
    assert error_of(refused)["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_stops_the_generation(
    server: Running, until: Callable[..., None], *, stream: bool
) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "stream": stream, **LONG}
    request = server.client.build_request("POST", "/v1/chat/completions", json=body)
    with socket.create_connection((request.url.host, request.url.port)) as connection:
        head = f"POST {request.url.path} HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(f"{head}Content-Length: {len(request.content)}\r\n\r\n".encode())
        connection.sendall(request.content)
        until(lambda: server.engine.load().running == 1)
    until(lambda: server.engine.load().running == 0, within_s=2)


CALLABLE = {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function", "invalid_value"),
        ({"tools": [CALLABLE]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"best_of_all": 1}, "best_of_all", "unknown_parameter"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "tools", "unsupported_parameter"),
        ({"messages": "hello"}, "messages", "invalid_value"),
        ({"logprobs": 0}, "logprobs", "invalid_value"),
        ({"max_tokens": 5000}, "messages", "context_length_exceeded"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "invalid_value"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    server: Running, fields: dict[str, Any], param: str, code: str
) -> None:
    response = server.chat("hello", **fields)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, code)


def test_options_at_the_value_that_changes_nothing_are_taken(server: Running) -> None:
    neutral = {"tools": [], "response_format": {"type": "text"}, "logprobs": False, "user": "me"}
    assert server.chat("hello", **neutral).status_code == 200


def test_text_parts_are_one_text(server: Running) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]
    message = {"role": "user", "content": parts}
    answer = server.chat("", messages=[message]).json()
    assert answer["choices"] == server.chat("the cat").json()["choices"]


def test_an_answer_is_taken_back_as_it_came(server: Running) -> None:
    talk: list[Any] = [{"role": "user", "content": "the cat"}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        def ask() -> ChatCompletionMessage:
            answer = client.chat.completions.create(model="toy", messages=talk, max_tokens=4)
            return answer.choices[0].message

        message = ask()
        for again in (message, message.model_dump()):
            talk += [again, {"role": "user", "content": "and then?"}]
            assert ask().content


def test_an_unknown_model_is_told_with_those_there_are(server: Running) -> None:
    response = server.chat("hello", model="gpt-4")
    assert response.status_code == 404
    message = "model gpt-4 was asked for, this server has: toy, first, second.v2, faint"
    assert error_of(response)["message"] == message


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe{}", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"[" * 200_000, 400),
        ("POST", "/v1/chat/completions", b" " * (1024 * 1024 + 1), 413),
        ("GET", "/v1/embeddings", b"", 404),
        ("GET", "/v1/chat/completions", b"", 405),
    ],
)
def test_every_error_comes_in_the_one_shape(
    server: Running, method: str, path: str, content: bytes, status: int
) -> None:
    response = server.client.request(method, path, content=content)
    assert response.status_code == status
    assert error_of(response)["message"]


def test_metrics_count_what_was_done(server: Running) -> None:
    server.chat("hello", model="toy")
    text = server.client.get("/metrics").text
    for name in (
        'vllm:num_requests_running{model_name="toy"} 0.0',
        'vllm:num_requests_waiting{model_name="toy"} 0.0',
        'vllm:time_to_first_token_seconds_count{model_name="toy"}',
        'vllm:inter_token_latency_seconds_bucket{le="0.005",model_name="toy"}',
        'vllm:request_success_total{finished_reason="length",model_name="toy"}',
    ):
        assert name in text


def test_the_page_needs_nothing_from_outside(server: Running) -> None:
    page = server.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert re.findall(r"https?://\w+|@import|url\(|src=", page.text) == []
    assert "connect-src 'self'" in page.headers["content-security-policy"]


def test_health_is_good_once_generation_was_proved(server: Running) -> None:
    assert server.client.get("/health").json() == {"status": "Healthy"}
    assert server.client.head("/health").status_code == 200
