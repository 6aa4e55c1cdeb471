"""One continuation that the engine writes, and how its tokens become what a client reads."""

import functools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from serving.engine import FinishReason, Generation, Piece, Scored, Stream
from serving.metrics import Metrics
from serving.tokens.grammars import Grammars
from serving.tokens.spelling import Ranked, Spelling
from serving.tokens.text import TextStream
from serving.transformers_engine.grammar import Held
from serving.transformers_engine.sampling import Choice


@dataclass(eq=False)
class Row:
    """One continuation: what was asked, where it stands.

    stop_ids: the tokens that end it. length: its tokens in the cache.
    """

    generation: Generation
    index: int
    stream: Stream
    submitted_s: float
    choice: Choice
    text: TextStream
    stop_ids: frozenset[int]
    length: int = 0
    token: int = 0
    generated: int = 0
    last_token_s: float = 0.0

    @property
    def reserved_tokens(self) -> int:
        """How many tokens of the cache it may come to need."""
        return len(self.generation.prompt_ids) + self.generation.max_tokens

    def hold_off_its_end(self) -> None:
        """Have no token end it before it has those that it is to have at least."""
        is_too_early = self.generated < self.generation.min_tokens
        self.choice.forbidden_ids = tuple(self.stop_ids) if is_too_early else ()


class Writer:
    """Begins continuations and writes them on, token by token, into their streams."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        grammars: Grammars,
        stop_ids: frozenset[int],
        metrics: Metrics,
    ) -> None:
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer)
        self._grammars = grammars
        self._stop_ids = stop_ids
        self._metrics = metrics

    def begin(self, generations: Sequence[Generation], stream: Stream) -> list[Row]:
        """The rows of one request, numbered through; nothing is written of them yet."""
        each = [(generation, turn) for generation in generations for turn in range(generation.n)]
        return [
            self._row(generation, index, stream, turn=turn)
            for index, (generation, turn) in enumerate(each)
        ]

    def _row(self, generation: Generation, index: int, stream: Stream, *, turn: int) -> Row:
        rules = generation.sampling
        seed = None if rules.seed is None else rules.seed + turn
        own_stops = frozenset() if generation.ignore_eos else self._stop_ids
        matcher = self._grammars.matcher(generation)
        return Row(
            generation=generation,
            index=index,
            stream=stream,
            submitted_s=time.monotonic(),
            choice=Choice(
                rules,
                generation.prompt_ids,
                random.Random(seed),
                top_logprobs=generation.top_logprobs,
                held=Held(matcher) if matcher else None,
            ),
            text=TextStream(
                functools.partial(self._decode, shows_special=generation.shows_special),
                stop=generation.stop,
                shows_stop=generation.shows_stop,
                context=generation.prompt_ids[-1:],
            ),
            stop_ids=own_stops | generation.stop_token_ids,
        )

    def _decode(self, ids: list[int], *, shows_special: bool) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=not shows_special))

    def scored(self, token: int, ranked: Ranked | None) -> Scored:
        """A token with what it was given by the model, as clients are told it."""
        return self._spelling.scored(token, ranked)

    def write(self, row: Row, token: int) -> bool:
        """Give a row its next token; whether that was its last."""
        row.token = token
        row.generated += 1
        is_stop = token in row.stop_ids
        is_shown = not is_stop or (
            row.generation.shows_stop and token in row.generation.stop_token_ids
        )
        text = row.text.add(token) if is_shown else ""
        ranked = row.choice.ranked if is_shown else None
        scored = (self.scored(token, ranked),) if ranked else ()
        reason: FinishReason | None = None
        if is_stop or row.text.stopped:
            reason = "stop"
        elif row.generated >= row.generation.max_tokens:
            reason = "length"
        if reason:
            text += row.text.finish()
            reason = "stop" if row.text.stopped else reason
        self._measure(row, reason)
        row.stream.deliver(
            Piece(index=row.index, text=text, tokens=1, finish_reason=reason, scored=scored)
        )
        return reason is not None

    def _measure(self, row: Row, reason: FinishReason | None) -> None:
        now, name = time.monotonic(), row.generation.model
        self._metrics.generation_tokens.labels(name).inc()
        if row.generated == 1:
            self._metrics.first_token_s.labels(name).observe(now - row.submitted_s)
        else:
            self._metrics.between_tokens_s.labels(name).observe(now - row.last_token_s)
        row.last_token_s = now
        if reason:
            self._metrics.request_s.labels(name).observe(now - row.submitted_s)
            self._metrics.finished.labels(name, reason).inc()
