"""What is held for nothing is given up: by an engine at its end, without progress, unread."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.programs.serving import ServerConfig
from tests.serving.running import Running, compute_by, serve
from tests.serving.test_openai import events_of


@pytest.fixture
def own(toy_model: Path) -> Iterator[Running]:
    config = ServerConfig(weights_dir=toy_model, served_model_name="toy", idle_s=1, write_s=0.3)
    with serve(config) as running:
        yield running


def failing(_forward: Any) -> Any:
    def fail(*_arguments: Any, **_keywords: Any) -> None:
        raise RuntimeError("the device is gone")

    return fail


def test_steps_that_fail_are_no_end_since_they_may_be_of_one_bad_adapter_alone(
    own: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        compute_by(own.engine, failing, broken)
        for _ in range(4):
            assert own.chat("the cat").status_code == 500
        assert own.client.get("/health").status_code == 503
        assert own.engine.fault is None
    assert own.chat("the cat").status_code == 200
    assert own.client.get("/health").status_code == 200


def test_a_thread_that_ends_takes_its_requests_with_it_and_no_more(
    own: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end() -> None:
        raise SystemExit("the thread is over")

    monkeypatch.setattr(own.engine._adapters, "make_due_changes", end)
    ended = own.chat("the cat")
    assert (ended.status_code, ended.json()["error"]["code"]) == (503, "broken")
    assert own.chat("the cat").json()["error"]["code"] == "broken"


def test_an_answer_without_progress_ends_with_an_error_and_frees_its_row(
    own: Running, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setattr(own.engine._batch, "turn", own.engine._batch.drop_cancelled)
    *_, last = events_of(own.chat("the cat", stream=True))
    assert last["error"]["code"] == "stalled"
    refused = own.chat("the cat")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stalled")
    until(lambda: own.engine.load().running == 0)


def ended(own: Running) -> list[str]:
    """How many answers have come to their end, as the metrics tell it."""
    lines = own.client.get("/metrics").text.splitlines()
    return [line for line in lines if "success_total{" in line]


def test_a_client_that_stops_reading_is_cut_and_its_row_is_free(
    own: Running, until: Callable[..., None]
) -> None:
    body = {"prompt": "on", "max_tokens": 4000, "ignore_eos": True, "logprobs": 20, "stream": True}
    sent = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    before = ended(own)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = own.url.removeprefix("http://").partition(":")
        client.connect((host, int(port)))
        client.sendall(head.encode() + sent)
        until(lambda: own.engine.load().running == 1)
        until(lambda: own.engine.load().running == 0, within_s=60)
        assert ended(own) == before
    assert own.chat("the cat").status_code == 200
