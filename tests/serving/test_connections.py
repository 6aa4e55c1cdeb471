"""Clients that hold connections for nothing, on a real socket; the model is still being loaded."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
import uvicorn

from serving.app import create_app
from serving.door.connections import BoundedConnection
from serving.metrics import Metrics
from serving.server import Server
from tasks.contract.programs.serving import ServerConfig

HEAD = b"POST /chat HTTP/1.1\r\nHost: localhost\r\n"


class Hasty(BoundedConnection):
    most = 3
    head_timeout_s = 1.5


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    config = ServerConfig(weights_dir=Path(), served_model_name="toy")
    application = create_app(Server(config, Metrics()))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(application, http=Hasty, lifespan="off", log_config=None)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join()
    listener.close()


def told(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    connection.settimeout(10)
    said = b""
    while part := connection.recv(65536):
        said += part
    return said


def test_a_head_that_drips_is_given_up(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as silent, socket.create_connection(address) as drips:
        began = time.monotonic()
        drips.sendall(HEAD)
        time.sleep(0.2)
        drips.sendall(b"X-More: 1\r\n")
        assert told(silent) == told(drips) == b""
        assert time.monotonic() - began < 5


def test_a_body_that_drips_is_a_408(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.api.body._BODY_TIMEOUT_S", 0.3)
    with socket.create_connection(address) as drips:
        drips.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        head, _, body = told(drips).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


def test_one_connection_too_many_is_told_and_the_next_is_answered_when_one_has_gone(
    address: tuple[str, int],
) -> None:
    open_ones = [socket.create_connection(address) for _ in range(3)]
    with socket.create_connection(address) as late:
        head, _, body = told(late).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["error"]["code"] == "too_many_connections"
    for each in open_ones:
        with closing(each):
            assert told(each) == b""  # silent for too long
    url = f"http://127.0.0.1:{address[1]}/metrics"
    assert httpx2.get(url, trust_env=False).status_code == 200
