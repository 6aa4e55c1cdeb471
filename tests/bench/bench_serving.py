"""Our server beside one that generates for one request at a time, as KAITO's does.

Run as `python tests/bench/bench_serving.py [--weights FOLDER] [--clients 1 4 16] [--tokens 64]`.
Both servers hold the same model in the same precision; each number of clients asks both, one after
the other, so that other work on the machine disturbs both alike. Prints a table and writes
build/bench/serving.json. On CPU and CUDA.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parent.parent.parent
WEIGHTS = ROOT / "build" / "models" / "smollm2-135m-instruct"
_TOPICS = ("rivers", "bicycles", "bread", "the moon", "violins", "tides", "maps", "bees")
_READY_WITHIN_S = 180
_ANSWERED_WITHIN_S = 300


@dataclass(frozen=True)
class Measured:
    """One server at one number of clients."""

    server: str
    clients: int
    requests_per_s: float
    tokens_per_s: float
    first_token_p50_s: float


def main() -> None:
    """Measure, print, write."""
    options = _options()
    if options.peer_port:
        run_peer(options.weights, options.peer_port)
        return
    with ExitStack() as stack:
        urls = {
            "kaitoflow": stack.enter_context(_ours(options.weights)),
            "one at a time": stack.enter_context(_peer(options.weights)),
        }
        for url in urls.values():
            asyncio.run(_measure("warm-up", url, clients=1, tokens=8, rounds=1))
        measured = [
            asyncio.run(
                _measure(name, url, clients=clients, tokens=options.tokens, rounds=options.rounds)
            )
            for clients in options.clients
            for name, url in urls.items()
        ]
    _report(measured, tokens=options.tokens)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="a model's folder")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=64, help="generated per request")
    parser.add_argument("--rounds", type=int, default=1, help="requests of each client")
    parser.add_argument("--peer-port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


@contextmanager
def _ours(weights: Path) -> Iterator[str]:
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "server.json"
        fields = {"weights_dir": str(weights), "served_model_name": "model", "port": port}
        config.write_text(json.dumps(fields))
        with _started([sys.executable, "-m", "serving", str(config)], port) as url:
            yield url


@contextmanager
def _peer(weights: Path) -> Iterator[str]:
    port = _free_port()
    command = [sys.executable, __file__, "--weights", str(weights), "--peer-port", str(port)]
    with _started(command, port) as url:
        yield url


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _started(command: Sequence[str], port: int) -> Iterator[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KAITOFLOW_LOG_LEVEL": "WARNING",
        "GOMP_SPINCOUNT": "1000",  # what ours sets for itself; without, noise hits the other
    }
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as program:
        try:
            _wait_until_ready(url, program)
            yield url
        finally:
            program.send_signal(signal.SIGTERM)
            program.wait(timeout=30)


def _wait_until_ready(url: str, program: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while program.poll() is None and time.monotonic() < deadline:
        try:
            if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server at {url} was not ready within {_READY_WITHIN_S} s")


async def _measure(name: str, url: str, *, clients: int, tokens: int, rounds: int) -> Measured:
    """All clients at once, each asking its rounds one after the other."""
    first_tokens_s: list[float] = []
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(
        base_url=url, timeout=_ANSWERED_WITHIN_S, limits=limits, trust_env=False
    ) as client:

        async def ask_on(number: int) -> int:
            return sum(
                [
                    await _ask(client, number * rounds + turn, tokens, first_tokens_s)
                    for turn in range(rounds)
                ]
            )

        started_s = time.monotonic()
        async with asyncio.timeout(_ANSWERED_WITHIN_S * rounds):
            generated = sum(await asyncio.gather(*map(ask_on, range(clients))))
        took_s = time.monotonic() - started_s
    if generated != clients * rounds * tokens:
        raise SystemExit(f"{name} generated {generated} tokens, not {clients * rounds * tokens}")
    return Measured(
        server=name,
        clients=clients,
        requests_per_s=clients * rounds / took_s,
        tokens_per_s=generated / took_s,
        first_token_p50_s=statistics.median(first_tokens_s),
    )


async def _ask(
    client: httpx2.AsyncClient, number: int, tokens: int, first_tokens_s: list[float]
) -> int:
    """Stream one answer of exactly so many tokens; how many the server says they were."""
    body = {
        "messages": [{"role": "user", "content": _prompt(number)}],
        "temperature": 0,
        "max_tokens": tokens,
        "min_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started_s, generated = time.monotonic(), 0
    seen = False
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event: Mapping[str, Any] = json.loads(line.removeprefix("data: "))
            if not seen and _has_text(event):
                seen = True
                first_tokens_s.append(time.monotonic() - started_s)
            generated = (event.get("usage") or {}).get("completion_tokens", generated)
    return int(generated)


def _has_text(event: Mapping[str, Any]) -> bool:
    return any(choice["delta"].get("content") for choice in event["choices"])


def _prompt(number: int) -> str:
    """About a hundred tokens, another text for each request."""
    topic = _TOPICS[number % len(_TOPICS)]
    facts = " ".join(f"Fact {fact} about {topic} is worth a line." for fact in range(7))
    return f"Letter {number}. {facts} Write a short story about {topic}."


def _report(measured: Sequence[Measured], *, tokens: int) -> None:
    out = [
        f"{'clients':>7}  {'server':<14} {'req/s':>6} {'tok/s':>7} {'first p50 s':>11} {'ratio':>6}"
    ]
    peers = {each.clients: each for each in measured if each.server != "kaitoflow"}
    for each in measured:
        ratio = each.tokens_per_s / peers[each.clients].tokens_per_s
        out.append(
            f"{each.clients:>7}  {each.server:<14} {each.requests_per_s:>6.2f}"
            f" {each.tokens_per_s:>7.1f} {each.first_token_p50_s:>11.2f} {ratio:>6.2f}"
        )
    sys.stdout.write("\n".join(out) + "\n")
    file = ROOT / "build" / "bench" / "serving.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    results = {"tokens": tokens, "measured": [asdict(each) for each in measured]}
    file.write_text(json.dumps(results, indent=2))


def run_peer(weights: Path, port: int) -> None:
    """FastAPI and `generate` behind one lock: the least that streams, and no batching."""
    import uvicorn

    from serving.model.loading import (
        find_device,
        load_base_model,
        load_tokenizer,
        preferred_dtype,
        quiet_libraries,
    )

    quiet_libraries()
    model = load_base_model(weights, dtype=preferred_dtype(find_device()))
    app = _peer_app(model, load_tokenizer(weights))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _peer_app(model: Any, tokenizer: Any) -> Any:
    from threading import Lock, Thread

    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from transformers import TextIteratorStreamer

    app, lock = FastAPI(), Lock()

    def events(body: dict[str, Any]) -> Iterator[str]:
        inputs = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        count = body["max_tokens"]
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        length = {"max_new_tokens": count, "min_new_tokens": count}
        asked = {**inputs, **length, "do_sample": False, "streamer": streamer}
        with lock:
            worker = Thread(target=model.generate, kwargs=asked)
            worker.start()
            for text in streamer:
                yield _event({"choices": [{"delta": {"content": text}}]})
            worker.join()
        yield _event({"choices": [], "usage": {"completion_tokens": count}})

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "Healthy"}

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(events(body), media_type="text/event-stream")

    return app


def _event(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


if __name__ == "__main__":
    main()
