"""A real vLLM on the CPU beside our own engine, with SmolLM2; only `make test-vllm` collects it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.serving.running import Running, serve

pytestmark = pytest.mark.both_engines

PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "2, 4, 8, 16,",
    "Write one sentence about the sea.",
    "Wie heißt die größte Stadt der Schweiz?",
    "A list of three fruits:",
    "Once upon a time there was a",
    "The opposite of hot is",
)
TOKENS = 32
# Two engines sum in other orders: log probabilities that are nearer than this are a tie.
TIE = 0.01


@pytest.fixture(scope="module")
def ours(server: Running) -> Iterator[Running]:
    """The same models behind our own engine, in 32 bits as well."""
    with serve(replace(server.config, engine="transformers")) as running:
        yield running


def greedy(server: Running, model: str, prompt: str) -> list[dict[str, Any]]:
    """The likeliest continuation, each token with the two likeliest in its place."""
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": TOKENS}
    answer = server.client.post("/v1/completions", json=body | {"logprobs": 2, "ignore_eos": True})
    assert answer.status_code == 200, answer.text
    told = answer.json()["choices"][0]["logprobs"]
    each = zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True)
    return [{"token": token, "logprob": own, "top": top} for token, own, top in each]


@pytest.mark.parametrize("model", ["toy", "first", "second.v2"])
def test_greedy_answers_are_those_of_our_own_engine_but_for_ties(
    server: Running, ours: Running, model: str
) -> None:
    same = 0
    for prompt in PROMPTS:
        theirs, own = greedy(server, model, prompt), greedy(ours, model, prompt)
        at = next((at for at in range(TOKENS) if theirs[at]["token"] != own[at]["token"]), TOKENS)
        same += at == TOKENS
        for here, there in zip(own[:at], theirs[:at], strict=True):
            assert here["logprob"] == pytest.approx(there["logprob"], abs=5e-3)
        if at < TOKENS:
            first, second = sorted(own[at]["top"].values(), reverse=True)[:2]
            assert first - second < TIE, (prompt, at, own[at], theirs[at])
    assert same >= len(PROMPTS) - 2


def test_it_knows_as_much_of_the_context_as_it_was_told(server: Running) -> None:
    assert server.engine.context_tokens == server.config.max_context_tokens
