"""The server's real app on a real socket, for tests to talk to."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest
import torch
import uvicorn

from serving.api.answers import prove
from serving.app import create_app
from serving.door.connections import bounded
from serving.metrics import Metrics
from serving.server import Server
from serving.transformers_engine.engine import load_engine
from serving.vllm_engine.engine import start_engine
from tasks.contract.programs.serving import ServerConfig, VllmConfig

# A real `vllm`, where `make test-vllm` runs the tests; else the fake stands in its place.
REAL_VLLM = os.environ.get("KAITOFLOW_TEST_VLLM", "")
FAKE_VLLM = (sys.executable, "-m", "tests.serving.fake_vllm")


@dataclass(frozen=True)
class Running:
    """A server under test: where it listens, and the engine behind it, into which tests look."""

    url: str
    config: ServerConfig
    engine: Any
    client: httpx2.Client

    def chat(self, text: str, **fields: object) -> httpx2.Response:
        """Ask for a chat completion, greedy and short unless said otherwise."""
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages, "temperature": 0, "max_tokens": 12} | fields
        return self.client.post("/v1/chat/completions", json=body)


def compute_by(engine: Any, wrap: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put something around the model that our own engine computes with; what was put there."""
    wrapped = wrap(engine._batch._forward)
    for user in (engine._batch, engine._batch._reader):
        monkeypatch.setattr(user, "_forward", wrapped)
    return wrapped


def vllm_config(**fields: Any) -> VllmConfig:
    """How vLLM is started for a test: the real one small, since it is on a CPU."""
    if not REAL_VLLM:
        return VllmConfig(program=FAKE_VLLM, **fields)
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    small = {"enforce-eager": None, "dtype": "float32", "max-num-batched-tokens": "4096"}
    return VllmConfig(program=(REAL_VLLM, "serve"), flags=small, **fields)


def by(engine: str, config: ServerConfig) -> ServerConfig:
    """The same server with another engine behind it: `transformers` or `vllm`."""
    if engine == "transformers":
        return config
    return replace(config, engine="vllm", vllm=vllm_config())


@contextmanager
def serve(config: ServerConfig) -> Iterator[Running]:
    """The real app on a real socket, in float32 so that a batch rounds as a single row does."""
    shared = Server(config, Metrics())
    engine: Any
    if config.engine == "vllm":
        engine = start_engine(config, metrics=shared.metrics)
    else:
        engine = load_engine(config, metrics=shared.metrics, dtype=torch.float32)
    asyncio.run(prove(engine, *engine.models))
    most = config.max_loaded_adapters
    shared.metrics.watch(engine, model=config.served_model_name, max_loaded_adapters=most)
    shared.engine = engine
    listener = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(
        create_app(shared), http=bounded(write_s=config.write_s), lifespan="off", log_config=None
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield Running(url, config, engine, client)
    server.should_exit = True
    thread.join()
    engine.close()
    listener.close()
