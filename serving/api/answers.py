"""What the engine generates, handed to clients: whole, or as a stream of events while it comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from serving.api.openai_protocol import ChatCompletionRequest
from serving.door.accounts import spend
from serving.engine import (
    BrokenError,
    DeviceFullError,
    Engine,
    Generation,
    GenerationFailedError,
    ModelGoneError,
    Piece,
    QueueFullError,
    RestartingError,
    StalledError,
    StoppingError,
    Stream,
)
from serving.errors import ApiError, broken, restarting, stopping

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Answering:
    """Who answers a request: the name that it was asked under, and the version behind it.

    report: told once how it went, by the tokens that were generated; None = it failed.
    unenforced: what was asked for and is left to the model.
    """

    name: str
    version: str
    fingerprint: str | None
    report: Callable[[int | None], None]
    unenforced: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of its origin."""
        told = {"X-Kaitoflow-Unenforced": self.unenforced} if self.unenforced else {}
        return {"X-Kaitoflow-Generation": self.version} | told

    def told_of(self, asked: ChatCompletionRequest, generation: Generation) -> "Answering":
        """The same, where strict arguments are left to the model, with a word of it."""
        is_left = asked.is_strict and generation.grammar is None
        return replace(self, unenforced="tools.function.strict") if is_left else self


def check_rows(engine: Engine, rows: int) -> None:
    """Nothing when so many continuations may be asked for. Raises: ApiError 400."""
    if rows > engine.most_rows:
        raise ApiError(
            400,
            f"{rows} continuations were asked for, this server takes {engine.most_rows} at once;"
            " ask in several requests",
            param="n",
        )


def submit(engine: Engine, *generations: Generation) -> Stream:
    """Start what one request asks for.

    Raises: ApiError 429 or, of a server that goes, 503 with the time after which to try again; 400
    where that would never help.
    """
    check_rows(engine, sum(generation.n for generation in generations))
    try:
        return engine.submit(*generations)
    except QueueFullError as error:
        load = engine.load()
        raise ApiError(
            429,
            f"{load.running} requests are in work and {load.waiting} wait, which is as many as may;"
            " try again shortly",
            headers={"Retry-After": "2"},
        ) from error
    except StoppingError as error:
        raise stopping() from error
    except RestartingError as error:
        raise restarting() from error
    except BrokenError as error:
        raise broken(str(error)) from error
    except ModelGoneError as error:
        raise ApiError(
            404, f"model {error} has just been unloaded; ask another", code="model_not_found"
        ) from error


async def collect(stream: Stream) -> list[Piece]:
    """Each continuation as one whole piece."""
    whole: dict[int, Piece] = {}
    try:
        async for piece in stream:
            before = whole.get(piece.index, Piece(index=piece.index, text="", tokens=0))
            whole[piece.index] = replace(
                piece,
                text=before.text + piece.text,
                tokens=before.tokens + piece.tokens,
                scored=before.scored + piece.scored,
            )
    except GenerationFailedError as error:
        raise _failed(error) from error
    finally:
        stream.cancel()
    return [whole[index] for index in sorted(whole)]


def _failed(error: GenerationFailedError) -> ApiError:
    if isinstance(error, StoppingError):
        return stopping()
    if isinstance(error, RestartingError):
        return restarting()
    if isinstance(error, BrokenError):
        return broken(str(error))
    if isinstance(error, StalledError):
        return ApiError(
            503,
            f"{error}, which is as long as a request waits here; ask again, for less, or later",
            code="stalled",
            headers={"Retry-After": "30"},
        )
    if isinstance(error, DeviceFullError):
        return ApiError(
            503,
            "the device ran out of memory at this request; shorten it or try again later",
            code="out_of_memory",
            headers={"Retry-After": "5"},
        )
    return ApiError(500, "generation failed at this request; the server's log says why")


async def unless_gone(request: Request, answering: Awaitable[Answer]) -> Answer:
    """The answer, given up as soon as the client hangs up."""
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ApiError(499, "the client hung up")
        return answer.result()
    finally:
        for task in (answer, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ApiError):
            await answer


async def pieces_of(request: Request, stream: Stream, who: Answering) -> list[Piece]:
    """What `collect` has, given up as in `unless_gone`; how it went is reported."""
    try:
        pieces = await unless_gone(request, collect(stream))
    except ApiError as error:
        if error.status >= 500:
            who.report(None)
        raise
    tokens = sum(piece.tokens for piece in pieces)
    spend(request, tokens)
    who.report(tokens)
    return pieces


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def prove(engine: Engine, *models: str) -> None:
    """Generate one token with each model. Raises: GenerationFailedError."""
    for name in models:
        prompt_ids = engine.prompts.encode_text("Hello")
        await collect(engine.submit(Generation(model=name, prompt_ids=prompt_ids, max_tokens=1)))


@dataclass(frozen=True)
class Usage:
    """What one request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int


class Shape(Protocol):
    """One endpoint's way to write an answer as one object.

    who: that gives it.
    """

    who: Answering

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """All continuations in one object."""


class Telling(Protocol):
    """One endpoint's way to tell an answer while it comes, as server-sent events."""

    def begin(self) -> Iterator[str]:
        """What is said before the first token."""

    def go_on(self, piece: Piece) -> Iterator[str]:
        """What is said of a piece, if anything yet."""

    def end(self, usage: Usage) -> Iterator[str]:
        """What is said once every continuation has ended."""

    def fail(self, error: ApiError) -> Iterator[str]:
        """What is said in place of an end."""


async def answer(
    request: Request,
    engine: Engine,
    generations: Sequence[Generation],
    *,
    shape: Shape,
    telling: Telling | None,
) -> Response:
    """What was generated, as one JSON object or, where there is a telling, as its events."""
    stream = submit(engine, *generations)
    prompt_tokens = sum(len(generation.prompt_ids) for generation in generations)
    spend(request, prompt_tokens)
    if telling is None:
        pieces = await pieces_of(request, stream, shape.who)
        usage = Usage(prompt_tokens, sum(piece.tokens for piece in pieces))
        return JSONResponse(shape.whole(pieces, usage), headers=shape.who.headers)
    events = _events(request, stream, telling, who=shape.who, prompt_tokens=prompt_tokens)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | shape.who.headers
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(
    request: Request, stream: Stream, telling: Telling, *, who: Answering, prompt_tokens: int
) -> AsyncIterator[str]:
    """Server-sent events; the stream is cancelled when nobody reads on."""
    tokens = 0
    try:
        for event in telling.begin():
            yield event
        async for piece in stream:
            tokens += piece.tokens
            spend(request, piece.tokens)  # at once: who hangs up has had it
            for event in telling.go_on(piece):
                yield event
        for event in telling.end(Usage(prompt_tokens, tokens)):
            yield event
        who.report(tokens)
    except GenerationFailedError as error:
        who.report(None)
        for event in telling.fail(_failed(error)):
            yield event
    finally:
        stream.cancel()
