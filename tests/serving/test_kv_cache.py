"""Rows that join and leave a cache."""

import random

import pytest
import torch
from transformers.cache_utils import DynamicCache

from serving.transformers_engine.kv_cache import RowCache

LAYERS, HEADS, WIDTH = 2, 2, 3


def column(values: list[float]) -> torch.Tensor:
    """One column: each row's value in every head and place."""
    return torch.tensor(values)[:, None, None, None].expand(-1, HEADS, 1, WIDTH)


def prefilled(rows: list[list[float]]) -> DynamicCache:
    """Rows padded on the left with -1."""
    longest = max(map(len, rows))
    cache = DynamicCache()
    padded = [[-1.0] * (longest - len(row)) + row for row in rows]
    for layer in range(LAYERS):
        states = torch.cat([column([row[at] for row in padded]) for at in range(longest)], dim=2)
        cache.update(states + 100 * layer, -states, layer)
    return cache


def step(cache: RowCache, values: list[float]) -> list[list[float]]:
    """Add a value to each row; what the last layer's attention then sees."""
    for layer in range(LAYERS):
        keys, seen = cache.update(column(values) + 100 * layer, -column(values), layer)
    assert torch.equal(keys[:, :, -1:], column(values) + 100)
    cache.advance()
    rows: list[list[float]] = (-seen[:, 0, :, 0]).tolist()
    return rows


def test_a_cache_holds_what_each_row_saw_whoever_comes_and_goes() -> None:
    source, cache = random.Random(4), RowCache()
    rows: list[list[float]] = []
    for turn in range(700):
        if source.random() < 0.05 and len(rows) < 5:
            new = [[float(turn)] * source.randint(1, 90) for _ in range(source.randint(1, 2))]
            cache.add(prefilled(new))
            rows += new
        if rows and source.random() < 0.05:
            gone = source.randrange(len(rows))
            cache.remove(gone)
            rows[gone] = rows[-1]
            rows.pop()
            cache.fit([len(row) for row in rows])
        if rows:
            rows = [[*row, turn + 0.5] for row in rows]
            seen = step(cache, [turn + 0.5] * len(rows))
            assert [each[-len(row) :] for each, row in zip(seen, rows, strict=True)] == rows
            assert len(seen[0]) == max(map(len, rows))


def test_rows_are_as_before_where_there_is_no_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    cache = RowCache()
    cache.add(prefilled([[1.0, 2.0]]))
    with monkeypatch.context() as device:
        device.setattr(torch.Tensor, "new_empty", full)
        with pytest.raises(torch.OutOfMemoryError):
            cache.add(prefilled([[3.0] * 400]))
    assert step(cache, [9.0]) == [[1.0, 2.0, 9.0]]


def test_room_that_was_made_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, joining = RowCache(), prefilled([[1.0, 2.0]])
    cache.reserve(joining)
    monkeypatch.setattr(RowCache, "_reallocate", None)
    cache.add(joining)
    assert step(cache, [9.0]) == [[1.0, 2.0, 9.0]]


def test_an_empty_cache_gives_its_memory_back() -> None:
    cache = RowCache()
    cache.add(prefilled([[1.0, 2.0]]))
    cache.remove(0)
    cache.fit([])
    assert cache.get_seq_length() == 0
    assert not cache.layers
