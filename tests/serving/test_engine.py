"""The engine itself, past the edge that refuses what would harm it."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from serving.engine import (
    DeviceFullError,
    Generation,
    GenerationFailedError,
    Load,
    QueueFullError,
    Stream,
)
from tests.serving.running import Running, compute_by


async def text_of(stream: Stream) -> str:
    return "".join([piece.text async for piece in stream])


async def test_a_rows_fault_ends_that_row_alone_and_says_nothing_of_the_engines_health(
    server: Running,
) -> None:
    prompt_ids = server.engine.prompts.encode_text("the cat")
    innocent = Generation(model="toy", prompt_ids=prompt_ids, max_tokens=30)
    hostile = Generation(
        model="toy",
        prompt_ids=prompt_ids,
        max_tokens=4,
        min_tokens=2,
        stop_token_ids=frozenset({999_999_999}),
    )
    alone = await text_of(server.engine.submit(innocent))
    beside = asyncio.create_task(text_of(server.engine.submit(innocent)))
    for _ in range(4):
        with pytest.raises(GenerationFailedError, match="out of bounds"):
            await text_of(server.engine.submit(hostile))
    assert await beside == alone
    assert not server.engine.is_broken


async def test_who_gave_up_while_waiting_keeps_nobody_out(
    server: Running, until: Callable[..., None]
) -> None:
    engine = server.engine
    long = Generation(model="toy", prompt_ids=[5], max_tokens=900, min_tokens=900)
    running = [engine.submit(long) for _ in range(4)]
    until(lambda: engine.load().running == 4)
    waiting = [engine.submit(long) for _ in range(2)]
    with pytest.raises(QueueFullError):
        engine.submit(long)
    for stream in waiting:
        stream.cancel()
    assert engine.load().waiting == 0
    late = [engine.submit(long) for _ in range(2)]
    for stream in [*running, *late]:
        stream.cancel()
    until(lambda: engine.load() == Load(0, 0, 0))


class FullDevice:
    """The model's place, on a device that has no memory for the first request."""

    def __init__(self, forward: Any, said: Exception) -> None:
        self.held: list[weakref.ref[torch.Tensor]] = []
        self._forward = forward
        self._said = said

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.held:
            return self._forward(*arguments, **keywords)
        half_way = torch.zeros(1000)
        self.held.append(weakref.ref(half_way))
        raise self._said


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
    ids=lambda said: type(said).__name__,
)
def test_an_answer_that_the_memory_does_not_hold_is_a_503_and_leaves_nothing_behind(
    server: Running,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
    said: Exception,
    *,
    stream: bool,
) -> None:
    server.engine._prefixes.clear()
    device = compute_by(server.engine, lambda model: FullDevice(model, said), monkeypatch)
    refused = server.chat("the cat", model="toy", max_tokens=2, stream=stream)
    assert "out_of_memory" in refused.text
    if not stream:
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
    assert server.chat("the cat", model="toy", max_tokens=2).status_code == 200
    assert [tensor() for tensor in device.held] == [None]
    until(lambda: server.engine.load() == Load(0, 0, 0))
    assert not server.engine.is_broken


class SmallDevice:
    """The model's place, on a device whose memory ends at prompts of some length, all together."""

    def __init__(self, forward: Any, most_tokens: int) -> None:
        self._forward = forward
        self._most_tokens = most_tokens

    def __call__(self, tokens: list[list[int]], **keywords: Any) -> Any:
        is_read = len(tokens[0]) > 1
        held = keywords["cache"].get_seq_length()
        if is_read and len(tokens) * (held + len(tokens[0])) > self._most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._forward(tokens, **keywords)


async def test_prompts_that_the_memory_does_not_hold_end_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times in a row, so that it says nothing of the engine's health either."""
    engine = server.engine
    kept = Generation(model="toy", prompt_ids=engine.prompts.encode_text("the cat"), max_tokens=200)
    alone = await text_of(engine.submit(kept))
    compute_by(engine, lambda model: SmallDevice(model, 150), monkeypatch)
    beside = asyncio.create_task(text_of(engine.submit(kept)))
    for _ in range(5):
        large = Generation(model="toy", prompt_ids=[5] * 160, max_tokens=4)
        with pytest.raises(DeviceFullError, match="CUDA out of memory"):
            await text_of(engine.submit(large))
    assert await beside == alone
    assert not engine.is_broken


async def test_prompts_that_do_not_fit_together_are_read_one_by_one(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = server.engine
    prompts = [[token] * 100 for token in (5, 6)]
    asked = [Generation(model="toy", prompt_ids=ids, max_tokens=8) for ids in prompts]
    alone = [await text_of(engine.submit(each)) for each in asked]
    engine._prefixes.clear()
    compute_by(engine, lambda model: SmallDevice(model, 150), monkeypatch)
    large = Generation(model="toy", prompt_ids=[7] * 160, max_tokens=8)
    together = [asyncio.create_task(text_of(engine.submit(each))) for each in [*asked, large]]
    told = await asyncio.gather(*together, return_exceptions=True)
    assert told[:2] == alone
    assert isinstance(told[2], DeviceFullError)


def test_another_fault_of_the_device_is_a_500(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = RuntimeError("device-side assert triggered")
    compute_by(server.engine, lambda model: FullDevice(model, said), monkeypatch)
    assert server.chat("the cat", model="toy", max_tokens=2).status_code == 500
