"""Keys and values of the rows that a batch holds, in buffers that rows join and leave in place.

    capacity  ├──────────────────────────────────────────────┤
    row 0           ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│
    row 1                      ▒▒▒▒▒▒▒▒▒▒│                      every row ends at `end`, so that a
    row 2     ░░░░░ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│ free                 step writes one column for all
                   start                end

transformers' own cache copies everything at every step to append one token, and cannot take rows in.
"""

from collections.abc import Sequence
from typing import Any

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
    """One layer's keys and values: [rows, heads, columns, head_dim]."""

    is_sliding = False

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self._window = window

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: `RowCache.add` makes the buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's column; the rows' keys and values up to it."""
        window, assert_keys, assert_values = self._window, self.keys, self.values
        if assert_keys is None or assert_values is None:
            raise RuntimeError("a step before any row was added")
        end = window.end + key_states.shape[-2]
        assert_keys[: window.rows, :, window.end : end] = key_states
        assert_values[: window.rows, :, window.end : end] = value_states
        in_use = (slice(window.rows), slice(None), slice(window.start, end))
        return assert_keys[in_use], assert_values[in_use]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._window.width + query_length, 0

    def get_seq_length(self) -> int:
        return self._window.width

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """A cache whose rows come and go; rows are padded on the left."""

    def __init__(self) -> None:
        self._window = _Window()
        super().__init__(layers=[])

    def add(self, prefilled: DynamicCache) -> None:
        """Take the rows of a prefilled cache in, behind those that are there."""
        window = self._window
        length, count = prefilled.get_seq_length(), prefilled.layers[0].keys.shape[0]
        if not self.layers:
            self.layers = [_Layer(window) for _ in prefilled.layers]
        width = max(window.width, length)
        rows = window.rows + count
        if not self._holds(rows=rows, width=width):
            self._reallocate(rows=rows, width=width, like=prefilled)
        window.start = window.end - width
        new = (slice(window.rows, rows), slice(None), slice(window.end - length, window.end))
        for layer, source in zip(self.layers, prefilled.layers, strict=True):
            layer.keys[new] = source.keys
            layer.values[new] = source.values
        window.rows = rows

    def _holds(self, *, rows: int, width: int) -> bool:
        keys = self.layers[0].keys
        if keys is None:
            return False
        window = self._window
        return bool(rows <= keys.shape[0] and window.end >= width and window.end < keys.shape[2])

    def _reallocate(self, *, rows: int, width: int, like: Cache | None = None) -> None:
        """Move what is in use into new buffers with room to grow.

        Zeros, because a masked column still takes part with weight 0, and 0 * NaN is NaN.
        """
        window = self._window
        shape = (rows, width + _SPARE_TOKENS)
        old = (slice(window.rows), slice(None), slice(window.start, window.end))
        new = (slice(window.rows), slice(None), slice(width - window.width, width))
        for layer, source in zip(self.layers, (like or self).layers, strict=True):
            for name in ("keys", "values"):
                model, before = getattr(source, name), getattr(layer, name)
                buffer = model.new_zeros(shape[0], model.shape[1], shape[1], model.shape[3])
                if before is not None:
                    buffer[new] = before[old]
                setattr(layer, name, buffer)
        window.start, window.end = width - window.width, width

    def advance(self) -> None:
        """Count the column that a step wrote, and make room for the next one."""
        self._window.end += 1
        if self._window.end == self.layers[0].keys.shape[2]:
            self._reallocate(rows=self._window.rows, width=self._window.width)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        window = self._window
        last = window.rows - 1
        if row != last:
            columns = slice(window.start, window.end)
            for layer in self.layers:
                layer.keys[row, :, columns] = layer.keys[last, :, columns]
                layer.values[row, :, columns] = layer.values[last, :, columns]
        window.rows = last

    def fit(self, lengths: Sequence[int]) -> None:
        """Forget the columns that no row uses; without rows, the buffers too."""
        if lengths:
            self._window.start = self._window.end - max(lengths)
            return
        self._window.start = self._window.end = 0
        self.layers = []
