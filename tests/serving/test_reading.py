"""How prompts are read: in parts beside those that wait for a token, and none of it twice."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from serving.engine import Generation, Piece, Stream
from serving.transformers_engine.forward import Forward
from serving.transformers_engine.prefixes import BLOCK_TOKENS, Prefixes
from tests.serving.hot import load, unload
from tests.serving.running import Running, compute_by

PART_TOKENS = 128


class Watched:
    """The model's place, where what is computed is written down: rows and tokens of each go."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self.goes: list[tuple[int, int]] = []
        self.scored: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)

    def __call__(self, tokens: list[list[int]], **keywords: Any) -> Any:
        self.goes.append((len(tokens), len(tokens[0])))
        return self._forward(tokens, **keywords)

    def each(self, tokens: list[int], **keywords: Any) -> Any:
        self.scored.append(len(tokens))
        return self._forward.each(tokens, **keywords)

    @property
    def read_tokens(self) -> int:
        """Of prompts; a token of an answer is one of its row."""
        return sum(rows * tokens for rows, tokens in self.goes if tokens > 1)


@pytest.fixture
def watched(server: Running, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The server's model; nothing that other tests have read is known."""
    server.engine._prefixes.clear()
    seen: Watched = compute_by(server.engine, Watched, monkeypatch)
    return seen


def prompt(tokens: int, *, first: int = 5) -> list[int]:
    return [first + place * place % 90 for place in range(tokens)]


def asked(ids: list[int], *, model: str = "toy", max_tokens: int = 6, n: int = 1) -> Generation:
    return Generation(model=model, prompt_ids=ids, max_tokens=max_tokens, n=n, ignore_eos=True)


async def pieces_of(stream: Stream) -> list[Piece]:
    return [piece async for piece in stream]


async def told(server: Running, generation: Generation) -> list[str]:
    texts = [""] * generation.n
    for piece in await pieces_of(server.engine.submit(generation)):
        texts[piece.index] += piece.text
    return texts


async def test_a_long_prompt_is_read_in_parts_while_others_wait_for_a_token(
    server: Running, watched: Watched
) -> None:
    long, running = asked(prompt(700)), asked([5, 6], max_tokens=200)
    alone = [await told(server, running), await told(server, long)]
    server.engine._prefixes.clear()
    watched.goes.clear()
    stream = server.engine.submit(running)
    beside = asyncio.create_task(pieces_of(stream))
    while not watched.goes:
        await asyncio.sleep(0.001)
    assert await told(server, long) == alone[1]
    assert "".join(piece.text for piece in await beside) == alone[0][0]
    parts = [tokens for _, tokens in watched.goes if tokens > 2]
    assert parts == [PART_TOKENS] * 5 + [700 - 5 * PART_TOKENS]
    first, last = (watched.goes.index((1, tokens)) for tokens in (parts[0], parts[-1]))
    assert watched.goes[first:last] == [(1, PART_TOKENS), (1, 1)] * 5


async def test_a_prompt_whose_tokens_are_scored_is_read_in_parts_with_the_same_scores(
    server: Running, watched: Watched
) -> None:
    scored = replace(asked(prompt(300)), scores_prompt=True, top_logprobs=1)
    alone = await pieces_of(server.engine.submit(scored))
    watched.goes.clear()
    beside = asyncio.create_task(told(server, asked([5, 6], max_tokens=150)))
    while not watched.goes:
        await asyncio.sleep(0.001)
    in_parts = await pieces_of(server.engine.submit(scored))
    await beside
    assert len(in_parts[0].scored) == 300
    for one, other in zip(in_parts[0].scored, alone[0].scored, strict=True):
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert watched.scored == [300, PART_TOKENS, PART_TOKENS, 300 - 2 * PART_TOKENS]


async def test_a_beginning_that_was_read_is_not_read_again(
    server: Running, watched: Watched
) -> None:
    shared = prompt(500)
    await told(server, asked([*shared, 7, 8]))
    watched.goes.clear()
    again = await told(server, asked([*shared, 9, 9, 9]))
    kept = 500 // BLOCK_TOKENS * BLOCK_TOKENS
    assert watched.read_tokens == 503 - kept
    server.engine._prefixes.clear()
    assert await told(server, asked([*shared, 9, 9, 9])) == again


async def test_the_same_prompt_again_has_its_last_token_read(
    server: Running, watched: Watched
) -> None:
    ids = prompt(4 * BLOCK_TOKENS)
    before = await told(server, asked(ids))
    watched.goes.clear()
    assert await told(server, asked(ids)) == before
    assert watched.read_tokens == BLOCK_TOKENS


async def test_what_another_model_has_read_is_not_known(server: Running, watched: Watched) -> None:
    ids = prompt(200)
    first = await told(server, asked(ids, model="first"))
    watched.goes.clear()
    base = await told(server, asked(ids))
    assert watched.read_tokens == 200
    assert base != first


async def test_prompts_that_come_together_have_their_common_beginning_read_once(
    server: Running, watched: Watched
) -> None:
    shared = prompt(300)
    alone = [await told(server, asked([*shared, last, last])) for last in (7, 8, 9)]
    server.engine._prefixes.clear()
    watched.goes.clear()
    together = [told(server, asked([*shared, last, last])) for last in (7, 8, 9)]
    assert await asyncio.gather(*together) == alone
    assert watched.read_tokens <= 302 + 2 * (302 - 300 // BLOCK_TOKENS * BLOCK_TOKENS)


async def test_several_answers_to_one_prompt_read_it_once(
    server: Running, watched: Watched
) -> None:
    ids = prompt(300)
    texts = await told(server, asked(ids, n=3))
    assert len(set(texts)) == 1
    assert watched.read_tokens <= 300 + 2 * (300 - 300 // BLOCK_TOKENS * BLOCK_TOKENS)


async def test_several_answers_to_a_short_prompt_are_read_in_one_go(
    server: Running, watched: Watched
) -> None:
    await told(server, asked(prompt(20), n=3))
    assert watched.goes[0] == (3, 20)


async def test_a_prompt_that_has_begun_is_read_to_its_end_whatever_comes_behind_it(
    server: Running, watched: Watched
) -> None:
    running = server.engine.submit(asked([5, 6], max_tokens=300))
    while not watched.goes:
        await asyncio.sleep(0.001)
    long = asyncio.create_task(told(server, asked(prompt(600))))
    while (1, PART_TOKENS) not in watched.goes:
        await asyncio.sleep(0.001)
    short = asyncio.create_task(told(server, asked(prompt(20, first=9))))
    await asyncio.sleep(0)
    running.cancel()  # from now on all that is left may be read in one go
    await asyncio.gather(long, short)
    assert watched.read_tokens == 2 + 600 + 20


async def test_short_prompts_that_come_together_are_read_in_one_go(
    server: Running, watched: Watched
) -> None:
    server.engine.submit(asked(prompt(60), max_tokens=1))
    await asyncio.gather(*(told(server, asked(prompt(30, first=9 + n))) for n in range(3)))
    assert any(rows > 1 and tokens > 1 for rows, tokens in watched.goes)


async def test_kept_beginnings_give_way_to_a_prompt_that_needs_their_memory(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = server.engine
    await told(server, asked(prompt(200)))
    assert len(engine._prefixes)

    class Full:
        """The model's place, on a device that is full for as long as something is kept."""

        def __init__(self, forward: Any) -> None:
            self._forward = forward

        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            if len(engine._prefixes):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return self._forward(*arguments, **keywords)

    compute_by(engine, Full, monkeypatch)
    assert await told(server, asked(prompt(90, first=7)))


async def test_a_beginning_that_the_memory_does_not_hold_is_not_kept(
    server: Running, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(server.engine._prefixes, "keep", full)
    texts = [await told(server, asked(prompt(200))) for _ in range(2)]
    assert texts[0] == texts[1]
    assert watched.read_tokens == 400
    assert not server.engine.is_broken


async def test_who_hangs_up_while_a_prompt_is_read_leaves_nothing_of_it(
    server: Running, watched: Watched, until: Callable[..., None]
) -> None:
    engine = server.engine
    running = asyncio.create_task(told(server, asked([5, 6], max_tokens=150)))
    while not watched.goes:
        await asyncio.sleep(0.001)
    left = engine.submit(asked(prompt(900)))
    while (1, PART_TOKENS) not in watched.goes:
        await asyncio.sleep(0.001)
    left.cancel()
    await running
    assert watched.read_tokens < 900
    until(lambda: engine.load().running == 0)
    assert engine._batch._reader._begun is None


def test_an_adapter_that_comes_again_under_its_name_knows_nothing_of_the_one_before(
    hot: Running,
) -> None:
    forward: Forward = hot.engine._batch._forward
    before = forward.identity("first")
    assert load(hot, "first", "first").status_code == 200
    loaded = forward.identity("first")
    assert unload(hot, "first").status_code == 200
    assert load(hot, "first", "first").status_code == 200
    assert len({before, loaded, forward.identity("first")}) == 3


def filled(tokens: int) -> DynamicCache:
    cache = DynamicCache()
    states = torch.arange(tokens, dtype=torch.float32).view(1, 1, tokens, 1).expand(1, 2, -1, 4)
    for layer in range(2):
        cache.update(states, -states, layer)
    return cache


def layers(cache: DynamicCache) -> list[Any]:
    return list(cache.layers)


def kept(*, most_tokens: int) -> Prefixes:
    return Prefixes(most_tokens=most_tokens, identity=lambda name: name)


def test_what_is_found_is_what_was_read() -> None:
    prefixes, ids = kept(most_tokens=1000), prompt(300)
    prefixes.keep(ids, filled(300), row=0, model="m")
    found = prefixes.find([*ids[:200], 1, 2], model="m")
    assert found.get_seq_length() == 3 * BLOCK_TOKENS
    for layer, wanted in zip(layers(found), layers(filled(3 * BLOCK_TOKENS)), strict=True):
        assert torch.equal(layer.keys, wanted.keys)
        assert torch.equal(layer.values, wanted.values)


def test_of_a_padded_row_its_own_tokens_are_kept() -> None:
    prefixes, ids = kept(most_tokens=1000), prompt(70)
    prefixes.keep(ids, filled(100), row=0, model="m")
    found = prefixes.find(ids, model="m")
    assert layers(found)[0].keys[0, 0, :, 0].tolist() == list(range(30, 30 + BLOCK_TOKENS))


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    prefixes = kept(most_tokens=4 * BLOCK_TOKENS)
    old, used, new = (prompt(2 * BLOCK_TOKENS + 1, first=first) for first in (5, 6, 7))
    for ids in (old, used):
        prefixes.keep(ids, filled(len(ids)), row=0, model="m")
    prefixes.find(old, model="m")
    prefixes.keep(new, filled(len(new)), row=0, model="m")
    assert len(prefixes) == 4
    assert [prefixes.knows(ids, model="m") for ids in (old, used, new)] == [True, False, True]


def test_a_prompt_longer_than_all_that_is_kept_leaves_its_beginning() -> None:
    prefixes, ids = kept(most_tokens=2 * BLOCK_TOKENS), prompt(500)
    prefixes.keep(ids, filled(500), row=0, model="m")
    assert prefixes.find(ids, model="m").get_seq_length() == 2 * BLOCK_TOKENS


def test_metrics_tell_what_was_not_read_again() -> None:
    prefixes, ids = kept(most_tokens=1000), prompt(100)
    prefixes.keep(ids, filled(100), row=0, model="m")
    prefixes.find(ids, model="m")
    lines = prefixes.metrics().splitlines()
    assert "vllm:prefix_cache_queries_total 100.0" in lines
    assert f"vllm:prefix_cache_hits_total {BLOCK_TOKENS}.0" in lines
