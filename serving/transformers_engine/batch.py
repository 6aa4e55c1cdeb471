"""The continuations in work: their prompts are read (prefill), then each step adds a token to all.

Belongs to the engine's thread alone; others may look at `rows`.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from transformers.cache_utils import DynamicCache

from serving.engine import Piece
from serving.transformers_engine.faults import free_frames, is_out_of_memory, told
from serving.transformers_engine.forward import Forward, left_padded
from serving.transformers_engine.kv_cache import RowCache
from serving.transformers_engine.rows import Row, Writer
from serving.transformers_engine.sampling import choose, rank

log = logging.getLogger(__name__)


class Batch:
    """Rows that are computed together; they join and leave between steps."""

    def __init__(self, forward: Forward, writer: Writer) -> None:
        self._forward = forward
        self._writer = writer
        self._cache = RowCache()
        self.rows: list[Row] = []

    @property
    def tokens(self) -> int:
        """How many tokens of the cache they take; every row is as wide as the widest."""
        rows = list(self.rows)
        return len(rows) * max((row.length for row in rows), default=0)

    def clear(self) -> None:
        """Have no rows and an empty cache, whatever has become of them."""
        self.rows = []
        self._cache = RowCache()

    def drop_cancelled(self) -> None:
        """Leave those out for which nobody waits any more."""
        self._leave([row for row in self.rows if row.stream.cancelled])

    def _leave(self, leaving: Sequence[Row]) -> None:
        """Take rows out of the batch and its cache."""
        if not leaving:
            return
        gone = set(map(id, leaving))
        for at in range(len(self.rows) - 1, -1, -1):
            if id(self.rows[at]) in gone:
                self._cache.remove(at)
                self.rows[at] = self.rows[-1]
                self.rows.pop()
        self._cache.fit([row.length for row in self.rows])

    def join(self, joining: Sequence[Row]) -> None:
        """Read the prompts of rows that have just joined and choose their first tokens.

        What the memory does not hold together is read one by one; a prompt that it does not hold
        alone ends its own row, and the others go on.
        """
        try:
            cache, logits = self._read(joining)
            self._cache.reserve(cache)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._join_apart(joining, error)
            return
        self._cache.add(cache)
        for row in joining:
            row.length = len(row.generation.prompt_ids)
        self._continue(joining, logits)

    def _join_apart(self, joining: Sequence[Row], error: Exception) -> None:
        """Have rows join one by one after they did not together; one alone has had its try."""
        self.rows = [row for row in self.rows if row not in joining]
        free_frames(error)
        if len(joining) == 1:
            self._end_badly(joining[0], error)
            return
        for row in joining:
            self.rows = [*self.rows, row]
            self.join([row])

    def _read(self, joining: Sequence[Row]) -> tuple[DynamicCache, torch.Tensor]:
        if joining[0].generation.scores_prompt:
            return self._read_with_scores(joining[0])
        prompts = [row.generation.prompt_ids for row in joining]
        cache = DynamicCache()
        logits = self._forward(
            left_padded(prompts),
            lengths=[len(prompt) for prompt in prompts],
            cache=cache,
            models=[row.generation.model for row in joining],
        )
        return cache, logits

    def _read_with_scores(self, row: Row) -> tuple[DynamicCache, torch.Tensor]:
        """Read a prompt that is told token by token how likely it was."""
        ids, cache = list(row.generation.prompt_ids), DynamicCache()
        count = row.generation.top_logprobs or 0
        scored, after, last = [self._writer.scored(ids[0], None)], 1, None
        for scores in self._forward.each(ids, cache=cache, model=row.generation.model):
            following, last = ids[after : after + len(scores)], scores[-1:]
            if following:
                logprobs = torch.log_softmax(scores[: len(following)], -1)
                ranks = rank(following, logprobs, count=count)
                scored += map(self._writer.scored, following, ranks)
            after += len(scores)
        assert last is not None
        row.stream.deliver(Piece(index=row.index, text="", tokens=0, scored=tuple(scored)))
        return cache, last

    def step(self) -> None:
        """One more token for every row."""
        logits = self._forward(
            [[row.token] for row in self.rows],
            lengths=[row.length + 1 for row in self.rows],
            cache=self._cache,
            models=[row.generation.model for row in self.rows],
        )
        self._cache.advance()
        for row in self.rows:
            row.length += 1
        self._continue(self.rows, logits)

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
