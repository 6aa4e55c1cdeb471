"""How prompts are read (prefill): in parts, so that no row in work waits long for its next token.

Belongs to the engine's thread alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass
class _Begun:
    """A prompt that is read in parts: what is in the cache so far, and told of its tokens."""

    row: Row
    cache: DynamicCache
    scored: list[Scored] = field(default_factory=list)


class Reader:
    """Reads on in the prompts of rows that have joined."""

    def __init__(self, forward: Forward, prefixes: Prefixes, writer: Writer) -> None:
        self._forward = forward
        self._prefixes = prefixes
        self._writer = writer
        self._begun: _Begun | None = None

    def next_rows(self, unread: Sequence[Row], *, at_once: int) -> Sequence[Row]:
        """The first rows of those unread, as many as are read together.

        at_once: tokens that may be read in one go, padding counted. What one of them begins with is
        known to a later one only once it has been read.
        """
        beginnings, longest = set[tuple[str, tuple[int, ...]]](), 0
        for count, row in enumerate(unread):
            longest = max(longest, len(row.generation.prompt_ids))
            if self._is_read_by_itself(row):
                return unread[: count or 1]
            if count and (longest * (count + 1) > at_once or _beginning(row) in beginnings):
                return unread[:count]
            if len(row.generation.prompt_ids) >= BLOCK_TOKENS:
                beginnings.add(_beginning(row))
        return unread

    def read(self, rows: Sequence[Row], *, at_once: int) -> Read | None:
        """Read on; None = one prompt is longer than what may be read in one go, and has begun."""
        return self._read_together(rows) if len(rows) > 1 else self._read_part(rows[0], at_once)

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
        if self._begun and self._begun.row in rows:
            self._begun = None

    def start_again(self) -> bool:
        """Hold nothing of any prompt; whether memory was freed by it that kept beginnings had."""
        self._begun = None
        return self._prefixes.clear()

    def _is_read_by_itself(self, row: Row) -> bool:
        """Whether some of it is in a cache already, or each token's score is told."""
        asked, has_begun = row.generation, self._begun is not None and self._begun.row is row
        is_known = self._prefixes.knows(asked.prompt_ids, model=asked.model)
        return asked.scores_prompt or has_begun or is_known

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
        ids = row.generation.prompt_ids
        if self._begun is None or self._begun.row is not row:
            self._begun = _Begun(row, self._known_of(row))
        begun = self._begun
        start = begun.cache.get_seq_length()
        part = ids[start : start + at_once]
        end = start + len(part)
        if row.generation.scores_prompt:
            logits = self._score(begun, part)
        else:
            model = row.generation.model
            logits = self._forward([part], lengths=[end], cache=begun.cache, models=[model])
        if end < len(ids):
            return None
        self._begun = None
        return Read([row], begun.cache, logits, tuple(begun.scored))

    def _known_of(self, row: Row) -> DynamicCache:
        """What is known of a prompt; where each token's score is told, each token is read."""
        asked = row.generation
        if asked.scores_prompt:
            return DynamicCache()
        return self._prefixes.find(asked.prompt_ids, model=asked.model)

    def _score(self, begun: _Begun, part: Sequence[int]) -> torch.Tensor:
        """Read a part of a prompt that is told token by token how likely it was; its last scores.

        What a token says of the one behind it, the part's last one says of the next part's first.
        """
        asked = begun.row.generation
        ids, count = list(asked.prompt_ids), asked.top_logprobs or 0
        if not begun.scored:
            begun.scored.append(self._writer.scored(ids[0], None))
        last = None
        for scores in self._forward.each(part, cache=begun.cache, model=asked.model):
            after, last = len(begun.scored), scores[-1:]
            if following := ids[after : after + len(scores)]:
                logprobs = torch.log_softmax(scores[: len(following)], -1)
                ranks = rank(following, logprobs, count=count)
                begun.scored += map(self._writer.scored, following, ranks)
        assert last is not None
        return last


def _beginning(row: Row) -> tuple[str, tuple[int, ...]]:
    """What two prompts have in common where the second needs not be read whole."""
    return row.generation.model, tuple(row.generation.prompt_ids[:BLOCK_TOKENS])
