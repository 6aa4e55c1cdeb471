"""Bodies as well-known clients send them, over a real socket."""

from typing import Any

import pytest

from tests.serving.running import Running
from tests.serving.test_openai import events_of

pytestmark = pytest.mark.both_engines

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the cat"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "the cat"}]}]

OPENAI_PYTHON = {
    "messages": MESSAGES,
    "model": "toy",
    "max_completion_tokens": 3,
    "metadata": {"run": "7"},
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "stream_options": None,
    "user": "me",
}
LANGCHAIN = {
    "messages": MESSAGES,
    "model": "toy",
    "n": 1,
    "temperature": 0.7,
    "stop": None,
    "max_tokens": 3,
    "logprobs": None,
    "top_p": 1.0,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "seed": None,
    "logit_bias": None,
}
OPEN_WEBUI = {
    "stream": True,
    "model": "toy",
    "messages": MESSAGES,
    "max_tokens": 3,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
}
LITELLM = {
    "model": "toy",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "the cat", "cache_control": {"type": "ephemeral"}}
            ],
        }
    ],
    "max_tokens": 3,
    "tools": [],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
}
VLLM_BENCH = {
    "model": "toy",
    "messages": PARTS,
    "temperature": 0.0,
    "repetition_penalty": 1.0,
    "max_completion_tokens": 3,
    "ignore_eos": True,
    "min_p": 0.05,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "add_generation_prompt": True,
    "include_stop_str_in_output": False,
    "stop_token_ids": [],
    "chat_template_kwargs": {},
}
VLLM_BENCH_STREAMED = VLLM_BENCH | {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
GUIDELLM = {
    "model": "toy",
    "messages": PARTS,
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "max_completion_tokens": 3,
    "stop": None,
    "ignore_eos": True,
}


@pytest.mark.parametrize(
    "body",
    [
        OPENAI_PYTHON,
        LANGCHAIN,
        OPEN_WEBUI,
        LITELLM,
        VLLM_BENCH,
        VLLM_BENCH_STREAMED,
        GUIDELLM,
        LANGCHAIN | {"parallel_tool_calls": False, "tool_choice": None, "tools": None},
    ],
)
def test_a_clients_body_is_answered(server: Running, body: dict[str, Any]) -> None:
    response = server.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text


def test_each_chunk_says_what_it_has_cost_so_far_where_that_was_asked(server: Running) -> None:
    events = events_of(server.client.post("/v1/chat/completions", json=GUIDELLM))
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert (counts[0], counts[-1]) == (0, 3)
    assert counts == sorted(counts)
    assert {event["usage"]["prompt_tokens"] for event in events} == {
        events[-1]["usage"]["prompt_tokens"]
    }


def test_hints_change_no_text(server: Running) -> None:
    plain = {"messages": MESSAGES, "model": "toy", "temperature": 0, "max_tokens": 5}
    hinted = OPENAI_PYTHON | plain | {"max_completion_tokens": None}
    texts = [
        server.client.post("/v1/chat/completions", json=body).json()["choices"]
        for body in (plain, hinted)
    ]
    assert texts[0] == texts[1]


def test_a_list_of_texts_is_answered_in_order(server: Running) -> None:
    body = {"model": "toy", "temperature": 0, "max_tokens": 4}
    single = [
        server.client.post("/v1/completions", json=body | {"prompt": text}).json()
        for text in ("the cat", "the dog")
    ]
    both = server.client.post("/v1/completions", json=body | {"prompt": ["the cat", "the dog"]})
    answer = both.json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["text"] for choice in answer["choices"]] == [
        each["choices"][0]["text"] for each in single
    ]
    for key in ("prompt_tokens", "completion_tokens"):
        assert answer["usage"][key] == sum(each["usage"][key] for each in single)


def test_token_ids_are_a_prompt_as_their_text_is(server: Running) -> None:
    body = {"model": "toy", "temperature": 0, "max_tokens": 4}
    ids = server.engine.prompts.encode_text("the cat")
    answers = [
        server.client.post("/v1/completions", json=body | {"prompt": prompt}).json()["choices"]
        for prompt in ("the cat", ids, [ids])
    ]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [3, 999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 4, "n": 2}, "n"),
        ({"prompt": "a", "stop_token_ids": [4000]}, "stop_token_ids"),
        ({"prompt": "a", "max_tokens": 3, "min_tokens": 4}, "min_tokens"),
        ({"prompt": "a b " * 3000}, "prompt"),
        ({"prompt": "a" * 1_000_000}, "prompt"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name(
    server: Running, body: dict[str, Any], param: str
) -> None:
    response = server.client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_token_may_end_the_answer_and_the_models_own_end_be_passed_over(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(**fields: Any) -> tuple[str, int]:
        answer = server.client.post("/v1/completions", json=body | fields).json()
        return answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]

    body = {"model": "toy", "prompt": "the cat", "temperature": 0, "max_tokens": 6}
    whole = server.client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    first = server.engine.prompts.encode_text(whole)[0]
    assert finish(stop_token_ids=[first]) == ("stop", 1)
    monkeypatch.setattr(server.engine._writer, "_stop_ids", frozenset({first}))
    assert finish() == ("stop", 1)
    assert finish(ignore_eos=True) == ("length", 6)
