"""The server's real app on a real socket, for tests to talk to."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import torch
import uvicorn

from serving.api.answers import prove
from serving.app import create_app
from serving.metrics import Metrics
from serving.server import Server
from serving.transformers_engine.engine import TransformersEngine, load_engine
from tasks.contract.programs.serving import ServerConfig


@dataclass(frozen=True)
class Running:
    """A server under test: where it listens and the engine behind it."""

    url: str
    config: ServerConfig
    engine: TransformersEngine
    client: httpx2.Client

    def chat(self, text: str, **fields: object) -> httpx2.Response:
        """Ask for a chat completion, greedy and short unless said otherwise."""
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages, "temperature": 0, "max_tokens": 12} | fields
        return self.client.post("/v1/chat/completions", json=body)


@contextmanager
def serve(config: ServerConfig) -> Iterator[Running]:
    """The real app on a real socket, in float32 so that a batch rounds as a single row does."""
    shared = Server(config, Metrics())
    engine = load_engine(config, metrics=shared.metrics, dtype=torch.float32)
    asyncio.run(prove(engine, *engine.models))
    most = config.max_loaded_adapters
    shared.metrics.watch(engine, model=config.served_model_name, max_loaded_adapters=most)
    shared.engine = engine
    listener = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(create_app(shared), lifespan="off", log_config=None)
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
