"""Many runs that wait for the same thing share one look at it."""

import asyncio
from collections.abc import Iterator

import pytest

from tasks.nodes.shared_look import SharedLook


class Counted:
    """A look that tells how often it was asked."""

    def __init__(self) -> None:
        self.looks = 0

    async def __call__(self) -> list[int]:
        self.looks += 1
        await asyncio.sleep(0)
        return [self.looks]


async def test_all_that_ask_at_once_see_the_same() -> None:
    look = Counted()
    shared = SharedLook(look, fresh_s=60)
    assert await asyncio.gather(*(shared() for _ in range(5))) == [[1]] * 5


async def test_what_is_not_fresh_any_more_is_looked_at_anew() -> None:
    shared = SharedLook(Counted(), fresh_s=0)
    assert [await shared(), await shared()] == [[1], [2]]


async def test_after_a_change_from_here_the_next_look_is_new() -> None:
    shared = SharedLook(Counted(), fresh_s=60)
    assert await shared() == [1]
    shared.forget()
    assert await shared() == [2]
    assert await shared() == [2]


async def test_a_look_that_began_before_a_change_is_not_what_is_seen_after_it() -> None:
    has_changed = asyncio.Event()

    async def look() -> list[bool]:
        seen = has_changed.is_set()
        await asyncio.sleep(0)
        return [seen]

    shared = SharedLook(look, fresh_s=60)
    under_way = asyncio.create_task(shared())
    await asyncio.sleep(0)
    has_changed.set()
    shared.forget()
    assert await shared() == [True]
    assert await under_way == [False]


async def test_a_look_that_failed_is_not_remembered() -> None:
    said: Iterator[OSError | list[int]] = iter([OSError("away"), [7]])

    async def look() -> list[int]:
        found = next(said)
        if isinstance(found, OSError):
            raise found
        return found

    shared = SharedLook(look, fresh_s=60)
    with pytest.raises(OSError, match="away"):
        await shared()
    assert await shared() == [7]
