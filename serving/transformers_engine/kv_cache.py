"""Keys and values of the rows that a batch holds, in buffers that rows join and leave in place.

    capacity  ├──────────────────────────────────────────────┤
    row 0           ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│
    row 1                      ▒▒▒▒▒▒▒▒▒▒│                      every row ends at `end`, so that a
    row 2     ░░░░░ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│ free                 step writes one column for all
                   start                end

transformers' own cache copies everything at every step to append one token, and takes no rows in.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

_SPARE_TOKENS = 256


class _Window:
    """Which columns and rows of the buffers are in use; one for all layers."""

    def __init__(self) -> None:
        self.rows = 0
        self.start = 0
        self.end = 0

    @property
    def width(self) -> int:
        return self.end - self.start


class _Layer(CacheLayerMixin):
    """One layer's buffers, keys and values: each [rows, heads, columns, head_dim]."""

    is_sliding = False

    def __init__(self, window: _Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._window = window
        self.buffers: tuple[torch.Tensor, ...] = ()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: `RowCache.add` makes the buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's column; the rows' keys and values up to it."""
        window = self._window
        end = window.end + key_states.shape[-2]
        keys, values = (buffer[: window.rows, :, :end] for buffer in self.buffers)
        keys[:, :, window.end :] = key_states
        values[:, :, window.end :] = value_states
        return keys[:, :, window.start :], values[:, :, window.start :]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a query sees, and the first one's number."""
        return self._window.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self._window.width

    def get_max_length(self) -> int:
        """-1: it grows."""
        return -1


class RowCache(Cache):
    """A cache whose rows come and go; rows are padded on the left."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._window = _Window()
        self._own: list[_Layer] = []

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return self._window.rows

    @property
    def width(self) -> int:
        """How many columns each row has, as the widest."""
        return self._window.width

    def add(self, prefilled: DynamicCache) -> None:
        """Take the rows of a prefilled cache in, behind those that are there."""
        self.reserve(prefilled)
        window, sources = self._window, _states(prefilled)
        count, _, length, _ = sources[0][0].shape
        rows = window.rows + count
        window.start = window.end - max(window.width, length)
        new = (slice(window.rows, rows), slice(None), slice(window.end - length, window.end))
        for layer, source in zip(self._own, sources, strict=True):
            for buffer, values in zip(layer.buffers, source, strict=True):
                buffer[new] = values
        window.rows = rows

    def reserve(self, prefilled: DynamicCache) -> None:
        """Make room for the rows of a prefilled cache, so that `add` takes no memory.

        Raises: what torch raises where there is none; the rows that are there are as before.
        """
        window, sources = self._window, _states(prefilled)
        count, _, length, _ = sources[0][0].shape
        if not self._own:
            self._own = [_Layer(window) for _ in sources]
            self.layers = list(self._own)
        rows, width = window.rows + count, max(window.width, length)
        if not self._holds(rows=rows, width=width):
            self._expect_room(rows=rows, width=width, like=sources)
            self._reallocate(rows=rows, width=width, like=sources)

    def _expect_room(
        self, *, rows: int, width: int, like: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        """Nothing, if moving to new buffers, layer for layer, will not break off half way."""
        grown = rows * (width + _SPARE_TOKENS)
        layers = [sum(grown * s.shape[1] * s.shape[3] for s in sources) for sources in like]
        there = sum(buffer.numel() for layer in self._own for buffer in layer.buffers)
        like[0][0].new_empty(max(0, sum(layers) - there) + max(layers))

    def _holds(self, *, rows: int, width: int) -> bool:
        window, buffers = self._window, self._own[0].buffers
        if not buffers:
            return False
        return rows <= buffers[0].shape[0] and width <= window.end < buffers[0].shape[2]

    def _reallocate(self, *, rows: int, width: int, like: Sequence[Sequence[torch.Tensor]]) -> None:
        """Move what is in use into new buffers with room to grow.

        Zeros, because a masked column still takes part with weight 0, and 0 * NaN is NaN.
        """
        window = self._window
        old = (slice(window.rows), slice(None), slice(window.start, window.end))
        new = (slice(window.rows), slice(None), slice(width - window.width, width))
        for layer, sources in zip(self._own, like, strict=True):
            fresh = tuple(
                source.new_zeros(rows, source.shape[1], width + _SPARE_TOKENS, source.shape[3])
                for source in sources
            )
            for buffer, before in zip(fresh, layer.buffers, strict=bool(layer.buffers)):
                buffer[new] = before[old]
            layer.buffers = fresh
        window.start, window.end = width - window.width, width

    def advance(self) -> None:
        """Count the column that a step wrote, and make room for the next one."""
        window = self._window
        window.end += 1
        if window.end == self._own[0].buffers[0].shape[2]:
            buffers = [layer.buffers for layer in self._own]
            self._reallocate(rows=window.rows, width=window.width, like=buffers)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        window = self._window
        window.rows -= 1
        if row == window.rows:
            return
        for layer in self._own:
            for buffer in layer.buffers:
                used = buffer[:, :, window.start : window.end]
                used[row] = used[window.rows]

    def fit(self, lengths: Sequence[int]) -> None:
        """Forget the columns that no row uses; without rows, the buffers too."""
        window = self._window
        if lengths:
            window.start = window.end - max(lengths)
            return
        window.start = window.end = 0
        self._own = []
        self.layers = []


def _states(prefilled: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The keys and values of each layer, each [rows, heads, columns, head_dim]."""
    return [(layer.keys, layer.values) for layer in cast("list[Any]", prefilled.layers)]
