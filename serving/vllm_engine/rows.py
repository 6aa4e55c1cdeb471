"""One continuation that vLLM writes, as the pieces that a client reads."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.engine import FinishReason, Generation, GenerationFailedError, Piece, Scored, Stream
from serving.metrics import Metrics
from serving.tokens.spelling import Ranked, Spelling
from serving.tokens.text import TextStream
from serving.vllm_engine.wire import Step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(eq=False)
class Row:
    """One continuation: what was asked, which of its request's it is, where it stands.

    turn: which of its generation's. stop_ids: the tokens that end it. has_ended: nothing is
    delivered of it any more.
    """

    generation: Generation
    turn: int
    index: int
    stream: Stream
    stop_ids: frozenset[int]
    text: TextStream
    submitted_s: float = field(default_factory=time.monotonic)
    generated: int = 0
    last_token_s: float = 0.0
    has_ended: bool = False


class Writer:
    """Begins continuations and writes them on into their streams; belongs to one thread."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        stop_ids: frozenset[int],
        metrics: Metrics,
    ) -> None:
        """Write with a tokenizer of the thread's own. stop_ids: that end any text."""
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer)
        self._stop_ids = stop_ids
        self._metrics = metrics

    def begin(self, generations: Sequence[Generation], stream: Stream) -> list[Row]:
        """The rows of one request, numbered through; nothing is written of them yet."""
        each = [(generation, turn) for generation in generations for turn in range(generation.n)]
        return [
            self._row(generation, turn, index, stream)
            for index, (generation, turn) in enumerate(each)
        ]

    def _row(self, generation: Generation, turn: int, index: int, stream: Stream) -> Row:
        own = frozenset() if generation.ignore_eos else self._stop_ids
        return Row(
            generation,
            turn,
            index,
            stream,
            stop_ids=own | generation.stop_token_ids,
            text=TextStream(
                functools.partial(self._decode, shows_special=generation.shows_special),
                stop=generation.stop,
                shows_stop=generation.shows_stop,
                context=generation.prompt_ids[-1:],
            ),
        )

    def _decode(self, ids: list[int], *, shows_special: bool) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=not shows_special))

    def write(self, row: Row, step: Step) -> bool:
        """Deliver what a step adds; whether that was the row's last.

        Raises: GenerationFailedError: vLLM ended it, and not because it was at its end.
        """
        prompt = zip(row.generation.prompt_ids, step.prompt, strict=False)
        scored = [self._scored(row, token, ranked) for token, ranked in prompt]
        text, written, reason = "", 0, None
        for place, token in enumerate(step.tokens):
            written += 1
            is_shown, reason = self._take(row, token)
            if is_shown:
                text += row.text.add(token)
                ranked = step.ranked[place] if step.ranked else None
                scored += [self._scored(row, token, ranked)] if ranked else []
            if row.text.stopped:
                reason = "stop"
            if reason:
                break
        reason = reason or _reason(step.finish)
        if reason:
            text += row.text.finish()
            reason = "stop" if row.text.stopped else reason
            row.has_ended = True
        self._measure(row, written, reason)
        if reason or written or scored:
            piece = Piece(
                index=row.index,
                text=text,
                tokens=written,
                finish_reason=reason,
                scored=tuple(scored),
            )
            row.stream.deliver(piece)
        return row.has_ended

    def _scored(self, row: Row, token: int, ranked: Ranked | None) -> Scored:
        """A token as clients are told it; vLLM tells one likely token more than were asked for."""
        if ranked is not None:
            ranked = Ranked(ranked.logprob, ranked.top[: row.generation.top_logprobs])
        return self._spelling.scored(token, ranked)

    def _take(self, row: Row, token: int) -> tuple[bool, FinishReason | None]:
        """Whether a token is part of what is said, and whether it ends it."""
        row.generated += 1
        if token not in row.stop_ids:
            is_full = row.generated >= row.generation.max_tokens
            return True, "length" if is_full else None
        shown = row.generation.shows_stop and token in row.generation.stop_token_ids
        return shown, "stop"

    def _measure(self, row: Row, written: int, reason: FinishReason | None) -> None:
        now, name = time.monotonic(), row.generation.model
        if written:
            self._metrics.generation_tokens.labels(name).inc(written)
            if row.generated == written:
                self._metrics.first_token_s.labels(name).observe(now - row.submitted_s)
            else:
                each = (now - row.last_token_s) / written
                for _ in range(written):
                    self._metrics.between_tokens_s.labels(name).observe(each)
            row.last_token_s = now
        if reason:
            self._metrics.request_s.labels(name).observe(now - row.submitted_s)
            self._metrics.finished.labels(name, reason).inc()


def _reason(finish: str | None) -> FinishReason | None:
    """Why a row has ended, if it has. Raises: GenerationFailedError: for no reason of a text's."""
    match finish:
        case None | "stop" | "length":
            return finish
        case _:
            raise GenerationFailedError(f"vLLM ended this request with {finish!r}")
