"""The engine itself, past the edge that refuses what would harm it."""

import asyncio
from collections.abc import Callable

import pytest

from serving.engine import Generation, GenerationFailedError, Load, QueueFullError, Stream
from tests.serving.running import Running


async def text_of(stream: Stream) -> str:
    return "".join([piece.text async for piece in stream])


async def test_a_rows_fault_ends_that_row_alone_and_says_nothing_of_the_engines_health(
    server: Running,
) -> None:
    prompt_ids = server.engine.encode_text("the cat")
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
