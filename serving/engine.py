"""What the server asks of an engine, and the words both use. No model library in here.

A request becomes a `Generation`; `Engine.submit` answers at once with a `Stream`, or refuses.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]
Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest, top_k 0 means no limit.

    min_p: the least share of a token, as a part of the likeliest one's.
    The penalties count tokens generated so far; repetition_penalty counts the prompt's too.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One request: n continuations of the prompt by a served model.

    prompt + max_tokens fit into the engine's context. stop: texts that end a continuation and are
    not part of it. stop_token_ids: besides the model's own, which ignore_eos passes over.
    """

    model: str
    prompt_ids: Sequence[int]
    max_tokens: int
    min_tokens: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one step added to continuation `index`; tokens without text are possible."""

    index: int
    text: str
    tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Load:
    """Continuations in work, continuations waiting, and the share of the cache they hold."""

    running: int
    waiting: int
    cache_usage: float


class QueueFullError(Exception):
    """The queue is full: as many requests wait as may."""


class GenerationFailedError(Exception):
    """This request ended without its text; the message says why."""


class DeviceFullError(GenerationFailedError):
    """This request ended because the device's memory did not hold what was in work."""


class Stream:
    """The pieces of one request as they come, until every continuation has finished.

    Made in the event loop; an engine's thread feeds it through `deliver` and `fail`.
    """

    def __init__(self, n: int) -> None:
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._unfinished = n

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._read()

    async def _read(self) -> AsyncIterator[Piece]:
        try:
            while self._unfinished:
                piece = await self._pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                self._unfinished -= piece.finish_reason is not None
                yield piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Say that nobody reads any more; the engine stops within a step."""
        self.cancelled = True

    def deliver(self, piece: Piece | Exception) -> None:
        """Hand a piece over, from any thread; a loop that is gone reads nothing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


class Engine(Protocol):
    """Models that continue prompts, many at once."""

    @property
    def models(self) -> Mapping[str, str | None]:
        """Served name to the name of the base model it adapts; None for the base itself."""

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its continuation together."""

    @property
    def context_characters(self) -> int:
        """A longer text never fits into the context, whatever it says."""

    @property
    def most_rows(self) -> int:
        """The most continuations that may be in work and wait together."""

    @property
    def vocabulary_tokens(self) -> int:
        """How many token ids there are; the last one is one less."""

    @property
    def default_sampling(self) -> Sampling:
        """What the model's authors recommend where a request says nothing."""

    @property
    def is_broken(self) -> bool:
        """Whether it has stopped being able to generate."""

    def encode_chat(self, messages: Sequence[Message], *, model: str) -> list[int]:
        """Token ids of a conversation up to where the assistant answers.

        Raises: ApiError when the model has no chat template or it does not take these messages.
        """

    def has_chat_template(self, model: str) -> bool:
        """Whether the model takes messages."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text as it is."""

    def submit(self, *generations: Generation) -> Stream:
        """Start or queue a request; its continuations are numbered through.

        Raises: QueueFullError.
        """

    def load(self) -> Load:
        """How busy it is."""

    def close(self) -> None:
        """Stop; requests in work fail."""
