"""How prompts are read (prefill): in parts, so that no row in work waits long for its next token.

Belongs to the engine's thread alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from serving.engine import Scored
from serving.transformers_engine.faults import free_frames, is_out_of_memory
from serving.transformers_engine.forward import Forward, left_padded
from serving.transformers_engine.prefixes import BLOCK_TOKENS, Prefixes
from serving.transformers_engine.rows import Row, Writer
from serving.transformers_engine.sampling import rank


@dataclass(frozen=True)
class Read:
    """Prompts that have been read to their ends.

    cache: of these rows, padded on the left. logits: [rows, vocabulary], for their first tokens.
    scored: how likely each token of the one prompt was, where that is told.
    """

    rows: Sequence[Row]
    cache: DynamicCache
    logits: torch.Tensor
    scored: tuple[Scored, ...] = ()


class Reader:
    """Reads on in the prompts of rows that have joined."""

    def __init__(self, forward: Forward, prefixes: Prefixes, writer: Writer) -> None:
        self._forward = forward
        self._prefixes = prefixes
        self._writer = writer
        self._begun: tuple[Row, DynamicCache] | None = None

    def next_rows(self, unread: Sequence[Row], *, at_once: int) -> Sequence[Row]:
        """The first rows of those unread, as many as are read together.

        at_once: tokens that may be read in one go, padding counted. A row whose beginning is known,
        or being read by one before it, is read by itself.
        """
        first = unread[0].generation
        if first.scores_prompt or self._is_known(unread[0]):
            return unread[:1]
        beginnings = {_beginning(unread[0])}
        longest = len(first.prompt_ids)
        for count, row in enumerate(unread[1:], start=1):
            longest = max(longest, len(row.generation.prompt_ids))
            is_read_by_itself = row.generation.scores_prompt or self._is_known(row)
            is_too_much = longest * (count + 1) > at_once
            if is_read_by_itself or is_too_much or _beginning(row) in beginnings:
                return unread[:count]
            if len(row.generation.prompt_ids) >= BLOCK_TOKENS:
                beginnings.add(_beginning(row))
        return unread

    def read(self, rows: Sequence[Row], *, at_once: int) -> Read | None:
        """Read on; None = one prompt is longer than what may be read in one go, and has begun."""
        if len(rows) > 1:
            read: Read | None = self._read_together(rows)
        elif rows[0].generation.scores_prompt:
            read = self._read_with_scores(rows[0])
        else:
            read = self._read_part(rows[0], at_once)
        return read

    def keep(self, read: Read) -> None:
        """Have the beginnings of what was read for later prompts, if the memory holds them."""
        try:
            for place, row in enumerate(read.rows):
                asked = row.generation
                self._prefixes.keep(asked.prompt_ids, read.cache, row=place, model=asked.model)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_frames(error)
            self._prefixes.clear()

    def drop(self, rows: Sequence[Row]) -> None:
        """Hold nothing of the prompts of rows that leave."""
        if self._begun and self._begun[0] in rows:
            self._begun = None

    def start_again(self) -> bool:
        """Hold nothing of any prompt; whether memory was freed by it that kept beginnings had."""
        self._begun = None
        return self._prefixes.clear()

    def _is_known(self, row: Row) -> bool:
        return self._prefixes.knows(row.generation.prompt_ids, model=row.generation.model)

    def _read_together(self, rows: Sequence[Row]) -> Read:
        prompts = [row.generation.prompt_ids for row in rows]
        cache = DynamicCache()
        logits = self._forward(
            left_padded(prompts),
            lengths=[len(prompt) for prompt in prompts],
            cache=cache,
            models=[row.generation.model for row in rows],
        )
        return Read(rows, cache, logits)

    def _read_part(self, row: Row, at_once: int) -> Read | None:
        ids, model = row.generation.prompt_ids, row.generation.model
        if self._begun is None or self._begun[0] is not row:
            self._begun = row, self._prefixes.find(ids, model=model)
        cache = self._begun[1]
        start = cache.get_seq_length()
        part = ids[start : start + at_once]
        end = start + len(part)
        logits = self._forward([part], lengths=[end], cache=cache, models=[model])
        if end < len(ids):
            return None
        self._begun = None
        return Read([row], cache, logits)

    def _read_with_scores(self, row: Row) -> Read:
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
        return Read([row], cache, last, tuple(scored))


def _beginning(row: Row) -> tuple[str, tuple[int, ...]]:
    """What two prompts have in common where the second needs not be read whole."""
    return row.generation.model, tuple(row.generation.prompt_ids[:BLOCK_TOKENS])
