"""The continuations in work: while prompts of some are read, each step adds a token to all others.

Belongs to the engine's thread alone; others may look at `rows`.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import torch

from serving.engine import Piece
from serving.transformers_engine.faults import free_frames, is_out_of_memory, told
from serving.transformers_engine.forward import Forward
from serving.transformers_engine.kv_cache import RowCache
from serving.transformers_engine.reading import Reader
from serving.transformers_engine.rows import Row, Writer
from serving.transformers_engine.sampling import choose

log = logging.getLogger(__name__)

# Prompt tokens in one go while nobody waits for a next token, padding counted.
_ALONE_TOKENS = 4096


class Batch:
    """Rows that are computed together; they join and leave between steps.

    rows: first those in the cache, in its order, then those whose prompts are to be read.
    """

    def __init__(
        self, forward: Forward, reader: Reader, writer: Writer, *, part_tokens: int
    ) -> None:
        """Have no rows. part_tokens: of a prompt in one go, while others wait for a next token."""
        self._forward = forward
        self._reader = reader
        self._writer = writer
        self._part_tokens = part_tokens
        self._cache = RowCache()
        self._crowded: set[Row] = set()  # which did not fit into memory together
        self.rows: list[Row] = []

    @property
    def tokens(self) -> int:
        """How many tokens of the cache they take; every row is as wide as the widest."""
        return self._cache.rows * self._cache.width

    def clear(self) -> None:
        """Have no rows and an empty cache, whatever has become of them."""
        self.rows = []
        self._cache = RowCache()
        self._crowded.clear()
        self._reader.start_again()

    def drop_cancelled(self) -> None:
        """Leave those out for which nobody waits any more."""
        self._leave([row for row in self.rows if row.stream.cancelled])

    def _leave(self, leaving: Sequence[Row]) -> None:
        """Take rows out of the batch and its cache."""
        if not leaving:
            return
        self._reader.drop(leaving)
        self._crowded.difference_update(leaving)
        gone, count = set(map(id, leaving)), self._cache.rows
        read = self.rows[:count]
        for at in range(count - 1, -1, -1):
            if id(read[at]) in gone:
                self._cache.remove(at)
                read[at] = read[-1]
                read.pop()
        self.rows = [*read, *(row for row in self.rows[count:] if id(row) not in gone)]
        self._cache.fit([row.length for row in read])

    def turn(self) -> None:
        """Read on in the prompts of rows that have joined, and one more token for all others."""
        unread = self.rows[self._cache.rows :]
        if unread:
            self._read_on(unread)
        if self._cache.rows:
            self._step()

    def _read_on(self, unread: Sequence[Row]) -> None:
        """Read some prompts, or a part of one, and choose first tokens once one is at its end.

        What the memory does not hold together is read one by one; a prompt that it does not hold
        alone ends its own row, and the others go on.
        """
        at_once = self._part_tokens if self._cache.rows else _ALONE_TOKENS
        rows = self._reader.next_rows(unread, at_once=at_once)
        rows = rows[:1] if rows[0] in self._crowded else rows
        try:
            read = self._reader.read(rows, at_once=at_once)
            if read is None:
                return
            self._cache.reserve(read.cache)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._make_room(rows, error)
            return
        self._cache.add(read.cache)
        for row in rows:
            row.length = len(row.generation.prompt_ids)
        self._crowded.difference_update(rows)
        self._reader.keep(read)
        if read.scored:
            row = rows[0]
            row.stream.deliver(Piece(index=row.index, text="", tokens=0, scored=read.scored))
        self._continue(rows, read.logits)

    def _make_room(self, rows: Sequence[Row], error: Exception) -> None:
        """Have rows read again after memory was freed or apart; one that had all ends."""
        free_frames(error)
        if self._reader.start_again():
            return
        self._crowded.update(rows)
        if len(rows) == 1:
            self._end_badly(rows[0], error)
            self._leave(rows)

    def _step(self) -> None:
        """One more token for every row whose prompt has been read."""
        rows = self.rows[: self._cache.rows]
        try:
            logits = self._forward(
                [[row.token] for row in rows],
                lengths=[row.length + 1 for row in rows],
                cache=self._cache,
                models=[row.generation.model for row in rows],
            )
        except Exception as error:
            if not (is_out_of_memory(error) and self._reader.start_again()):
                raise
            free_frames(error)  # the next turn writes the same column again
            return
        self._cache.advance()
        for row in rows:
            row.length += 1
        self._continue(rows, logits)

    def _continue(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        for row in rows:
            row.hold_off_its_end()
        tokens = choose(logits, [row.choice for row in rows])
        chosen = zip(rows, tokens, strict=True)
        self._leave([row for row, token in chosen if self._ends(row, token)])

    def _ends(self, row: Row, token: int | Exception) -> bool:
        """Whether a row ends, with its next token or with a fault of its own."""
        if isinstance(token, Exception):
            return self._end_badly(row, token)
        try:
            return self._writer.write(row, token)
        except Exception as error:  # noqa: BLE001 - told to this row; the others go on
            return self._end_badly(row, error)

    def _end_badly(self, row: Row, error: Exception) -> Literal[True]:
        """One row's fault says nothing of the model: it does not count towards `is_broken`."""
        log.error("row failed model=%s", row.generation.model, exc_info=error)
        row.stream.deliver(told(error))
        return True
