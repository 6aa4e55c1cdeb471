"""Each request has an id and a line in the log, which says nothing of what was said."""

import logging
from collections.abc import Callable

import pytest

from tests.serving.running import Running


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "serving.door.requests"]


def test_an_answer_bears_the_id_that_its_client_gave(server: Running) -> None:
    given = {"X-Request-Id": "turn-7:a_b.c"}
    assert server.client.get("/v1/models", headers=given).headers["x-request-id"] == "turn-7:a_b.c"


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "a=b"])
def test_what_is_no_id_is_replaced(server: Running, given: str) -> None:
    answer = server.client.get("/v1/models", headers={"X-Request-Id": given})
    assert len(answer.headers["x-request-id"]) == 32


def test_a_refusal_bears_an_id_too(server: Running) -> None:
    assert server.client.post("/v1/completions", json={}).headers["x-request-id"]
    assert server.client.get("/nowhere").headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_has_one_line_of_who_asked_what_and_nothing_of_what_was_said(
    server: Running, caplog: pytest.LogCaptureFixture, until: Callable[..., None], *, stream: bool
) -> None:
    body = {"model": "first", "prompt": "the cat", "max_tokens": 3, "ignore_eos": True}
    prompt_tokens = len(server.engine.prompts.encode_text("the cat"))
    with caplog.at_level(logging.INFO):
        answer = server.client.post("/v1/completions", json=body | {"stream": stream})
        until(lambda: len(lines(caplog)) == 1)
    (line,) = lines(caplog)
    said = dict(part.split("=", 1) for part in line.removeprefix("request ").split(" "))
    assert said.pop("milliseconds").isdecimal()
    assert said == {
        "id": answer.headers["x-request-id"],
        "method": "POST",
        "path": "/v1/completions",
        "status": "200",
        "model": "first",
        "tokens": str(prompt_tokens + 3),
        "key": "-",
    }


def test_probes_fill_no_log_and_a_path_breaks_no_line(
    server: Running, caplog: pytest.LogCaptureFixture, until: Callable[..., None]
) -> None:
    with caplog.at_level(logging.INFO):
        server.client.get("/health")
        server.client.get("/a%0Astatus=200")
        until(lambda: len(lines(caplog)) == 1)
    (line,) = lines(caplog)
    assert "path=/a%0Astatus=200 status=404" in line
