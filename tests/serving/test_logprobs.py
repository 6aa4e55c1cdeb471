"""Probabilities of tokens, as OpenAI's client and evaluations read them."""

from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.serving.running import Running
from tests.serving.test_openai import events_of

pytestmark = pytest.mark.both_engines

TEXT = {"model": "toy", "prompt": "the cat sat", "temperature": 0, "max_tokens": 5}

IDS = [100, 101, 102]


def without_numbers(tokens: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Each token and what was likeliest in its place, by its bytes."""
    return [
        (one["token"], one["bytes"], *(each["bytes"] for each in one["top_logprobs"]))
        for one in tokens
    ]


def complete(server: Running, **fields: Any) -> dict[str, Any]:
    answer = server.client.post("/v1/completions", json=TEXT | fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0])


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_each_token_of_an_answer_has_the_likeliest_in_its_place(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": "the cat"}],
        max_tokens=6,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    told = answer.choices[0].logprobs
    assert told
    assert told.content
    assert len(told.content) == 6
    for token in told.content:
        assert token.logprob == token.top_logprobs[0].logprob
        assert token.token == token.top_logprobs[0].token
        assert [one.logprob for one in token.top_logprobs] == sorted(
            (one.logprob for one in token.top_logprobs), reverse=True
        )
    raw = b"".join(bytes(token.bytes or []) for token in told.content)
    assert raw.decode(errors="replace") == answer.choices[0].message.content


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_tells_the_same_probabilities(server: Running, n: int) -> None:
    asked = {"logprobs": True, "top_logprobs": 2, "temperature": 1, "seed": 3, "n": n}
    whole = server.chat("the dog", **asked).json()["choices"]
    events = events_of(server.chat("the dog", stream=True, **asked))
    for choice in whole:
        told = [
            token
            for event in events
            for part in event["choices"]
            if part["index"] == choice["index"] and part["logprobs"]
            for token in part["logprobs"]["content"]
        ]
        # Requests that are worked at together round in another order.
        assert without_numbers(told) == without_numbers(choice["logprobs"]["content"])
        for one, other in zip(told, choice["logprobs"]["content"], strict=True):
            assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


def test_without_asking_nothing_is_told(server: Running) -> None:
    assert server.chat("a").json()["choices"][0]["logprobs"] is None
    assert complete(server)["logprobs"] is None


def test_a_text_told_back_has_the_models_own_probabilities(server: Running) -> None:
    choice = complete(server, echo=True, logprobs=1, max_tokens=1)
    assert choice["text"].startswith("the cat sat")
    told, ids = choice["logprobs"], server.engine.prompts.encode_text("the cat sat")
    model = AutoModelForCausalLM.from_pretrained(server.config.weights_dir, dtype=torch.float32)
    with torch.inference_mode():
        scores = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
    wanted = [float(scores[at, one]) for at, one in enumerate(ids[1:])]
    assert told["token_logprobs"][0] is None
    assert told["token_logprobs"][1 : len(ids)] == pytest.approx(wanted, abs=1e-4)
    assert told["top_logprobs"][0] is None
    assert max(told["top_logprobs"][1].values()) == pytest.approx(float(scores[0].max()), abs=1e-4)
    assert "".join(told["tokens"]) == choice["text"]
    offsets = zip(told["text_offset"], told["tokens"], strict=True)
    assert all(choice["text"][at:].startswith(token) for at, token in offsets)


def test_a_stream_tells_a_text_back_as_the_whole_answer_does(server: Running) -> None:
    asked = {"echo": True, "logprobs": 2, "prompt": ["the cat", "a"], "n": 2}
    whole = server.client.post("/v1/completions", json=TEXT | asked).json()["choices"]
    events = events_of(server.client.post("/v1/completions", json=TEXT | asked | {"stream": True}))
    for choice in whole:
        parts = [
            part
            for event in events
            for part in event["choices"]
            if part["index"] == choice["index"]
        ]
        assert "".join(part["text"] for part in parts) == choice["text"]
        for key in ("tokens", "token_logprobs", "text_offset"):
            told = [one for part in parts if part["logprobs"] for one in part["logprobs"][key]]
            assert told == choice["logprobs"][key]


def test_an_echo_leaves_the_continuation_as_it_is(server: Running) -> None:
    plain = complete(server)["text"]
    assert complete(server, echo=True)["text"] == f"the cat sat{plain}"
    assert complete(server, echo=True, logprobs=0)["text"] == f"the cat sat{plain}"
    ids = server.engine.prompts.encode_text("the cat sat")
    assert complete(server, prompt=ids, echo=True)["text"] == f"the cat sat{plain}"


def test_a_long_prompt_is_scored_in_parts_as_at_once(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = complete(server, echo=True, logprobs=0)["logprobs"]
    two = 2 * server.engine.vocabulary_tokens
    monkeypatch.setattr("serving.transformers_engine.forward._SCORES_AT_ONCE", two)
    parts = complete(server, echo=True, logprobs=0)["logprobs"]
    assert parts["tokens"] == whole["tokens"]
    assert parts["token_logprobs"][1:] == pytest.approx(whole["token_logprobs"][1:], abs=1e-4)


def test_a_token_that_is_half_a_character_is_told_by_its_bytes(server: Running) -> None:
    ids = server.engine.prompts.encode_text("€")
    body = TEXT | {"prompt": "a", "allowed_token_ids": ids[:1], "max_tokens": 1}
    messages = [{"role": "user", "content": "a"}]
    chat = {key: value for key, value in body.items() if key != "prompt"} | {"messages": messages}
    answer = server.client.post("/v1/chat/completions", json=chat | {"logprobs": True}).json()
    (token,) = answer["choices"][0]["logprobs"]["content"]
    assert bytes(token["bytes"]) == "€".encode()[: len(token["bytes"])]


def test_probabilities_are_the_models_whatever_the_sampling_is(server: Running) -> None:
    ids = server.engine.prompts.encode_text("ab", adds=False)
    asked = {"logprobs": 0, "max_tokens": 1, "echo": True}
    scored = [complete(server, **asked, prompt=[*IDS, one])["logprobs"] for one in ids]
    for token, told in zip(ids, scored, strict=True):
        forced = complete(server, logprobs=0, max_tokens=1, allowed_token_ids=[token], prompt=IDS)
        assert forced["logprobs"]["token_logprobs"] == pytest.approx(
            [told["token_logprobs"][len(IDS)]], abs=1e-4
        )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
)
def test_probabilities_that_cannot_be_meant_are_refused(
    server: Running, fields: dict[str, Any], told: str
) -> None:
    answer = server.chat("a", **fields)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
