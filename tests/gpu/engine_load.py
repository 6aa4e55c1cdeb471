"""A server's engine, asked by many at once."""

import asyncio
import time
from pathlib import Path
from typing import Any

import torch

from serving.engine import Generation, QueueFullError, Sampling
from serving.metrics import Metrics
from serving.transformers_engine.engine import load_engine
from tasks.contract.programs.serving import AdapterSource, ServerConfig

Found = dict[str, Any]


def engine_of(weights: Path, *adapters: AdapterSource) -> Any:
    """An engine with the model and its adapters, on a GPU where there is one."""
    config = ServerConfig(
        weights_dir=weights,
        served_model_name="base",
        adapters=adapters,
        gpus=int(torch.cuda.is_available()),
    )
    return load_engine(config, metrics=Metrics())


def ask_at_once(
    engine: Any, model: str, clients: int, *, prompt: int, tokens: int, sampling: Sampling
) -> Found:
    """Tokens a second and the latest first token, where each client asks once at the same time."""

    async def one() -> tuple[float, int] | None:
        began_s, first_s, got = time.perf_counter(), 0.0, 0
        asked = Generation(
            model=model,
            prompt_ids=[10 + number % 90 for number in range(prompt)],
            max_tokens=tokens,
            min_tokens=tokens,
            sampling=sampling,
        )
        try:
            stream = engine.submit(asked)
        except QueueFullError:
            return None
        async for piece in stream:
            first_s = first_s or time.perf_counter() - began_s
            got += piece.tokens
        return first_s, got

    async def everybody() -> list[tuple[float, int] | None]:
        return await asyncio.gather(*(one() for _ in range(clients)))

    began_s = time.perf_counter()
    answers = asyncio.run(everybody())
    took_s = time.perf_counter() - began_s
    served = [answer for answer in answers if answer]
    return {
        "clients": clients,
        "refused": len(answers) - len(served),
        "tokens_per_s": round(sum(got for _, got in served) / took_s, 1),
        "first_token_s": round(max(first_s for first_s, _ in served), 3),
    }
