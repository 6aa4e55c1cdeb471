"""The engine itself, past the edge that refuses what would harm it."""

import asyncio

import pytest

from serving.engine import Generation, GenerationFailedError, Stream
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
