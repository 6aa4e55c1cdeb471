"""FastAPI and `generate` behind one lock: the least that streams, as KAITO's transformers runtime.

Run as `python -m tests.bench.serving.one_at_a_time WEIGHTS PORT`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from transformers import AsyncTextIteratorStreamer

from serving.model.loading import (
    find_device,
    load_base_model,
    preferred_dtype,
    quiet_libraries,
)
from serving.model.tokenizer import load_tokenizer


def main(weights: Path, port: int) -> None:
    """Serve until told to stop."""
    quiet_libraries()
    model = load_base_model(weights, dtype=preferred_dtype(find_device()))
    app = _app(model, load_tokenizer(weights))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _app(model: Any, tokenizer: Any) -> FastAPI:
    app, lock = FastAPI(), asyncio.Lock()

    async def events(body: Mapping[str, Any]) -> AsyncIterator[str]:
        inputs = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        count = body["max_tokens"]
        length = {"max_new_tokens": count, "min_new_tokens": count}
        async with lock:
            streamer = AsyncTextIteratorStreamer(
                tokenizer, skip_prompt=True, skip_special_tokens=True
            )
            asked = {**inputs, **length, "do_sample": False, "streamer": streamer}
            worker = Thread(target=model.generate, kwargs=asked)
            worker.start()
            async for text in streamer:
                yield _event({"choices": [{"delta": {"content": text}}]})
            worker.join()
        yield _event({"choices": [], "usage": {"completion_tokens": count}})

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "Healthy"}

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(events(body), media_type="text/event-stream")

    return app


def _event(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
