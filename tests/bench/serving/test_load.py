import asyncio

import pytest

from tests.bench.serving.load import ask_all
from tests.bench.serving.measures import Answer
from tests.bench.serving.servers import Running


def asked(running: Running, *prompts: str, clients: int = 1, tokens: int = 6) -> list[Answer]:
    bodies = [
        running.server.body(number, [{"role": "user", "content": prompt}], tokens)
        for number, prompt in enumerate(prompts)
    ]
    return asyncio.run(ask_all(running.server.url, bodies, clients=clients, within_s=20))


def test_an_answer_of_all_its_tokens_counts(running: Running) -> None:
    [answer] = asked(running, "say six words")
    assert not answer.failure
    assert answer.tokens == len(answer.text_s) == 6
    assert answer.asked_s < answer.text_s[0] <= answer.ended_s


def test_a_server_that_counts_its_tokens_is_believed(running: Running) -> None:
    [answer] = asked(running, "count")
    assert answer.tokens == 12


@pytest.mark.parametrize(
    ("prompt", "failure"),
    [
        ("refuse", "HTTP 429"),
        ("say nothing", "200, and no text"),
        ("stop early", "3 of 6 tokens"),
        ("tell an error", "the stream told an error: out of memory"),
    ],
)
def test_what_is_refused_or_broken_has_failed(running: Running, prompt: str, failure: str) -> None:
    [answer] = asked(running, prompt)
    assert answer.failure == failure


def test_a_server_that_is_gone_fails_and_stops_nothing(running: Running) -> None:
    running.stop()
    [answer] = asked(running, "say six words")
    assert answer.failure == "the connection broke: ConnectError"


def test_one_failure_leaves_the_other_clients_alone(running: Running) -> None:
    answers = asked(running, "refuse", *["say six words"] * 7, clients=4)
    assert sorted(answer.failure for answer in answers) == [""] * 7 + ["HTTP 429"]
