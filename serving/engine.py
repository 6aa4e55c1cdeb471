"""What the server asks of an engine, and the words both use. No model library in here.

A request becomes a `Generation`; `Engine.submit` answers at once with a `Stream`, or refuses.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from serving.tool_calls import CallReader, CallSpelling, ToolForm
from tasks.contract.errors import KaitoflowError
from tasks.contract.programs.serving import AdapterSource

FinishReason = Literal["stop", "length"]
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChatForm:
    """How a conversation is rendered.

    asks: up to where the assistant is to answer. continues: its last message stays open instead.
    variables: what the template may look at besides. tools: that the model may call.
    """

    asks: bool = True
    continues: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()


ASKED = ChatForm()


@dataclass(frozen=True)
class Tools:
    """How a model's calls of tools are read and written.

    specials: texts that are none of what it says. spelling: a call letter by letter, if it is JSON.
    marks: the special tokens by their texts. most: the calls of an answer that count; None = all.
    """

    form: ToolForm
    specials: frozenset[str]
    spelling: CallSpelling | None = None
    marks: Mapping[str, int] = field(default_factory=dict)
    most: int | None = None

    def reader(self) -> CallReader:
        """What reads the calls of one answer."""
        return CallReader(self.form, self.specials, most=self.most)

    @property
    def are_special(self) -> bool:
        """Whether calls stand between special tokens, which have to be shown to be seen."""
        return bool({self.form.begins, self.form.ends} & self.specials)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest, top_k 0 means no limit.

    min_p: the least share of a token, as a part of the likeliest one's.
    The penalties count tokens generated so far; repetition_penalty counts the prompt's too.
    logit_bias: is added to the scores of these tokens. allowed_token_ids: the others never come;
    None = all may. bad_words: token ids that never follow each other.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One request: n continuations of the prompt by a served model.

    prompt + max_tokens fit into the engine's context. stop: texts that end a continuation and are
    not part of it, unless shows_stop says so. stop_token_ids: besides the model's own, which
    ignore_eos passes over. shows_special: whether special tokens are part of the text.
    schema: a JSON schema, as text, that answers are held to. grammar: that they are held to
    instead, in llguidance's words (Lark).
    top_logprobs: how many of the likeliest tokens are told beside each that is chosen; None = not
    even that one's. scores_prompt: whether the prompt's tokens are told so, too.
    """

    model: str
    prompt_ids: Sequence[int]
    max_tokens: int
    min_tokens: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    shows_stop: bool = False
    shows_special: bool = False
    schema: str | None = None
    grammar: str | None = None
    top_logprobs: int | None = None
    scores_prompt: bool = False
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Scored:
    """A token with the logarithm of its probability; top: the likeliest ones in its place.

    logprob: None of a prompt's first token. raw: its own bytes, which may be part of a character.
    """

    token_id: int
    text: str
    raw: bytes
    logprob: float | None
    top: "tuple[Scored, ...]" = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one step added to continuation `index`; tokens without text are possible.

    scored: the step's tokens, where they were asked for; a first piece may have the prompt's.
    """

    index: int
    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    scored: tuple[Scored, ...] = ()


@dataclass(frozen=True)
class Load:
    """Continuations in work, continuations waiting, and the share of the cache they hold.

    running_models, waiting_models: those that they are of.
    """

    running: int
    waiting: int
    cache_usage: float
    running_models: frozenset[str] = frozenset()
    waiting_models: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Served:
    """One model that requests may name.

    parent: the name of the base model that it adapts; None = it is the base.
    digest: sha256 of an adapter's weights, in hex; "" for the base.
    """

    parent: str | None
    digest: str = ""


@dataclass(frozen=True)
class Part:
    """An adapter in a blend, of which the source's strength is its weight; digest: as `Served`."""

    source: AdapterSource
    digest: str


class ModelGoneError(Exception):
    """No model of that name is served, or not any more."""


class AdapterTakenError(Exception):
    """An adapter of that name is loaded, or on its way in or out."""


class QueueFullError(Exception):
    """The queue is full: as many requests wait as may."""


class GenerationFailedError(Exception):
    """This request ended without its text; the message says why."""


class DeviceFullError(GenerationFailedError):
    """This request ended because the device's memory did not hold what was in work."""


class StoppingError(GenerationFailedError):
    """This request ended because the server goes."""


class RestartingError(GenerationFailedError):
    """This request ended, or cannot begin, because the engine has died and is started again."""


class BrokenError(GenerationFailedError):
    """This request ended, or cannot begin, because the engine will never generate again."""


class StalledError(GenerationFailedError):
    """This request ended because no token came for as long as one may take."""


class Stream:
    """The pieces of one request as they come, until every continuation has finished.

    Made in the event loop; an engine's thread feeds it through `deliver` and `fail`.
    """

    def __init__(self, n: int, *, idle_s: float = 0) -> None:
        """Wait for n continuations; idle_s: for each piece at most, 0 = without end."""
        self.cancelled = False
        self._idle_s = idle_s or None
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._unfinished = n
        self._stop: Callable[[], None] = lambda: None

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._read()

    async def _read(self) -> AsyncIterator[Piece]:
        try:
            while self._unfinished:
                piece = await self._next()
                if isinstance(piece, Exception):
                    raise piece
                self._unfinished -= piece.finish_reason is not None
                yield piece
        finally:
            self.cancel()

    async def _next(self) -> Piece | Exception:
        try:
            async with asyncio.timeout(self._idle_s):
                return await self._pieces.get()
        except TimeoutError:
            return StalledError(f"no token came for {self._idle_s:g} s")

    def cancel(self) -> None:
        """Say that nobody reads any more; the engine stops within a step."""
        if not self.cancelled:
            self.cancelled = True
            self._stop()

    def when_cancelled(self, stop: Callable[[], None]) -> None:
        """Have an engine told at once, in the thread that cancels, once nobody reads any more."""
        self._stop = stop

    def deliver(self, piece: Piece | Exception) -> None:
        """Hand a piece over, from any thread; a loop that is gone reads nothing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


class Encoder(Protocol):
    """Conversations and texts as token ids, and back, for every model that is served."""

    def encode_chat(
        self, messages: Sequence[Message], *, model: str, form: ChatForm = ASKED
    ) -> list[int]:
        """Token ids of a conversation, by default up to where the assistant answers.

        Raises: ApiError when the model has no chat template or it does not take these messages.
        """

    def has_chat_template(self, model: str) -> bool:
        """Whether the model takes messages."""

    def tools_of(self, model: str) -> Tools:
        """How the model calls tools. Raises: ApiError: it does not, or in a way unknown here."""

    def encode_text(self, text: str, *, adds: bool = True) -> list[int]:
        """Token ids of a text as it is, behind those that the model begins with if it adds them."""

    def exceeds(self, texts: Iterable[str], tokens: int) -> bool:
        """Whether texts are surely of more tokens together; reads no more of them than needed."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary has it."""


class Engine(Protocol):
    """Models that continue prompts, many at once."""

    @property
    def models(self) -> Mapping[str, Served]:
        """The models that may be asked now, by name; the base first."""

    @property
    def prompts(self) -> Encoder:
        """How each of them reads texts."""

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
        """Whether it cannot generate now."""

    @property
    def fault(self) -> KaitoflowError | None:
        """Why it will never generate again, so that the server ends; None = it may."""

    def check_schema(self, schema: str) -> None:
        """Nothing when answers can be held to a JSON schema. Raises: ApiError."""

    def check_grammar(self, grammar: str) -> None:
        """Nothing when answers can be held to a grammar of tools. Raises: ApiError."""

    def submit(self, *generations: Generation) -> Stream:
        """Start or queue a request; its continuations are numbered through.

        Raises: QueueFullError, ModelGoneError, StoppingError, RestartingError, BrokenError.
        """

    def load_adapter(self, source: AdapterSource) -> None:
        """Serve one adapter more, which has scored a token; requests go on meanwhile.

        Raises: AdapterTakenError, AdapterMismatch, ServedDiffers: nothing has changed then.
        """

    def blend(self, parts: Sequence[Part], folder: Path) -> None:
        """Write an adapter that is the weighted sum of others, exactly.

        Raises: AdapterMismatch: they do not go together, or their files have changed.
        """

    def unload_adapter(self, name: str) -> Future[None]:
        """Take no more requests for an adapter, let those under way end on it, free its weights.

        Returns at once what is done after that. Raises: ModelGoneError.
        """

    def load(self) -> Load:
        """How busy it is."""

    async def own_metrics(self) -> str:
        """What it tells Prometheus beside what the server counts; empty where that is nothing."""

    def close(self) -> None:
        """Stop; requests in work fail."""
