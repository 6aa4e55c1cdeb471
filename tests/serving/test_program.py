"""The server as a program: start, stop and refusals; and the official client on a real model."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest

from serving.__main__ import listen, main
from serving.model.cpus import cpu_quota
from tasks.contract.errors import InvalidWorkspace, PortInUse
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tests.serving.running import serve


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def started(folder: Path, **fields: object) -> Iterator["subprocess.Popen[str]"]:
    """The program, ended with the block."""
    config = folder / "server.json"
    config.write_text(json.dumps(fields))
    command = [sys.executable, "-m", "serving", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        yield program
        program.kill()


def health(port: int) -> int:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code
    except httpx2.TransportError:
        return 0


def see(port: int, seen: list[int]) -> int:
    """The server's health now, remembered."""
    seen.append(health(port))
    return seen[-1]


def test_the_program_answers_while_it_loads_and_ends_when_told(
    toy_model: Path, tmp_path: Path, until: Callable[..., None]
) -> None:
    port, seen = free_port(), [0]
    fields = {"weights_dir": str(toy_model), "served_model_name": "toy", "port": port}
    with started(tmp_path, **fields) as program:
        until(lambda: see(port, seen) == 200, within_s=90)
        program.send_signal(signal.SIGTERM)
        said = program.communicate(timeout=20)[0]
    assert 503 in seen
    ready = {"event": "progress", "phase": "ready", "url": f"http://127.0.0.1:{port}"}
    assert json.loads(said.splitlines()[0]) == ready
    assert program.returncode == 143


LONG = {"prompt": "on", "max_tokens": 1900, "ignore_eos": True, "stream": True}


@contextmanager
def told_to_go(
    folder: Path, weights: Path, until: Callable[..., None], *, drain_s: float
) -> Iterator[tuple[int, Iterator[str], "subprocess.Popen[str]"]]:
    """The port, the rest of a long stream's lines, and the program, which was told to stop."""
    port = free_port()
    told = {"weights_dir": str(weights), "served_model_name": "toy", "port": port}
    with (
        started(folder, **told, drain_s=drain_s) as program,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
    ):
        until(lambda: health(port) == 200, within_s=90)
        with client.stream("POST", "/v1/completions", json=LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            program.send_signal(signal.SIGTERM)
            yield port, filter(None, lines), program
        program.communicate(timeout=20)


def test_a_server_that_goes_refuses_what_comes_and_tells_the_streams_that_it_cuts(
    toy_model: Path, tmp_path: Path, until: Callable[..., None]
) -> None:
    with told_to_go(tmp_path, toy_model, until, drain_s=1) as (port, lines, program):
        until(lambda: health(port) == 503)
        refused = httpx2.post(f"http://127.0.0.1:{port}/v1/completions", json=LONG, trust_env=False)
        *_, last, done = lines
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json()["error"]["code"] == "stopping"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert (done, program.returncode) == ("data: [DONE]", 143)


def test_a_server_that_goes_lets_answers_under_way_end(
    toy_model: Path, tmp_path: Path, until: Callable[..., None]
) -> None:
    with told_to_go(tmp_path, toy_model, until, drain_s=60) as (_, lines, program):
        *_, last, done = lines
    assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert (done, program.returncode) == ("data: [DONE]", 143)


def test_weights_that_cannot_be_loaded_end_the_program_with_a_verdict(tmp_path: Path) -> None:
    fields = {"weights_dir": str(tmp_path), "served_model_name": "toy", "port": free_port()}
    with started(tmp_path, **fields) as program:
        said = program.communicate(timeout=90)[0]
    assert json.loads(said)["reason"] == "WeightsUnavailable"
    assert program.returncode == 3


def test_a_taken_port_is_told_with_its_holder() -> None:
    with listen("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(PortInUse) as refused:
            listen("127.0.0.1", port)
    assert f"was asked to listen on 127.0.0.1:{port}" in str(refused.value)
    assert f"(process {os.getpid()}) listens there already" in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"adapters": (AdapterSource("toy", Path()),)}, "two of them alike"),
        ({"default_model": "mine"}, "the served models are toy; name one of them"),
    ],
)
def test_names_that_cannot_be_served_are_refused_at_once(
    fields: dict[str, object], told: str
) -> None:
    config = ServerConfig(weights_dir=Path(), served_model_name="toy", **fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidWorkspace, match=told):
        main(config)


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_a_containers_cpu_limit_is_read(tmp_path: Path, text: str, cpus: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert cpu_quota(file) == cpus


def test_the_official_client_chats_and_streams(smollm2_weights: Path) -> None:
    config = ServerConfig(weights_dir=smollm2_weights, served_model_name="smollm2")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    with (
        serve(config) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client,
    ):
        asked = {"model": "smollm2", "messages": question, "temperature": 0}
        answer = client.chat.completions.create(**asked)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == "The capital of France is Paris."
        assert answer.choices[0].finish_reason == "stop"
        stream = client.chat.completions.create(stream=True, **asked)  # type: ignore[call-overload]
        assert "".join(part.choices[0].delta.content or "" for part in stream) == (
            answer.choices[0].message.content
        )
        with pytest.raises(openai.NotFoundError, match="this server has: smollm2"):
            client.chat.completions.create(**(asked | {"model": "gpt"}))  # type: ignore[call-overload]
