"""What the engine generates, as the JSON and the events that clients read."""

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from serving.api.logprobs import chat_logprobs, text_logprobs
from serving.api.openai_protocol import GenerateRequest
from serving.door.accounts import spend
from serving.engine import (
    DeviceFullError,
    Engine,
    Generation,
    GenerationFailedError,
    ModelGoneError,
    Piece,
    QueueFullError,
    StoppingError,
    Stream,
    Tools,
)
from serving.errors import ApiError, stopping
from serving.tool_calls import CallReader, ToolCall

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Answering:
    """Who answers a request: the name that it was asked under, and the version behind it.

    report: told once how it went, by the tokens that were generated; None = it failed.
    """

    name: str
    version: str
    fingerprint: str | None
    report: Callable[[int | None], None]

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of its origin."""
        return {"X-Kaitoflow-Generation": self.version}


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
        prompt_ids = engine.encode_text("Hello")
        await collect(engine.submit(Generation(model=name, prompt_ids=prompt_ids, max_tokens=1)))


class Shape(Protocol):
    """One endpoint's way to write an answer.

    who: that gives it.
    """

    who: Answering

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        """All continuations in one object."""

    def first(self, index: int) -> dict[str, Any] | None:
        """What a stream says before a continuation's first token."""

    def part(self, piece: Piece) -> dict[str, Any] | None:
        """What a stream says of a piece; None = nothing yet."""

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        """What a stream says at its end, where it was asked to count."""


class ChatShape:
    """Chat completions as OpenAI writes them."""

    def __init__(self, who: Answering, *, tools: Tools | None = None) -> None:
        """Write answers; tools: how calls in them are read, where there may be any."""
        self.who = who
        self._tools = tools
        self._readers: dict[int, CallReader] = {}
        self._calls: Counter[int] = Counter()
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        choices = [self._choice(piece) for piece in pieces]
        return self._object("chat.completion") | {"choices": choices, "usage": usage}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        said, calls = self._read(piece)
        content = None if calls and not said.strip() else said
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = [call.written() for call in calls]
        return {
            "index": piece.index,
            "message": message,
            "logprobs": chat_logprobs(piece.scored),
            "finish_reason": self._reason(piece),
        }

    def _read(self, piece: Piece) -> tuple[str, list[ToolCall]]:
        """What a piece makes sure is said, and the calls that it ends."""
        if self._tools is None:
            return piece.text, []
        if piece.index not in self._readers:
            self._readers[piece.index] = CallReader(self._tools.form, self._tools.specials)
        reader = self._readers[piece.index]
        said, calls = reader.add(piece.text)
        if piece.finish_reason:
            rest, more = reader.finish()
            said, calls = said + rest, calls + more
        self._calls[piece.index] += len(calls)
        return said, calls

    def _reason(self, piece: Piece) -> str | None:
        is_called = piece.finish_reason == "stop" and self._calls[piece.index]
        return "tool_calls" if is_called else piece.finish_reason

    def first(self, index: int) -> dict[str, Any] | None:
        piece = Piece(index=index, text="", tokens=0)
        return self._chunk(piece, {"role": "assistant", "content": ""})

    def part(self, piece: Piece) -> dict[str, Any] | None:
        before = self._calls[piece.index]
        said, calls = self._read(piece)
        if not (said or calls or piece.finish_reason or piece.scored):
            return None
        delta: dict[str, Any] = {"content": said} if said else {}
        if calls:
            delta["tool_calls"] = [call.written(at) for at, call in enumerate(calls, before)]
        return self._chunk(piece, delta)

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        return self._object("chat.completion.chunk") | {"choices": [], "usage": usage}

    def _chunk(self, piece: Piece, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {
            "index": piece.index,
            "delta": delta,
            "logprobs": chat_logprobs(piece.scored),
            "finish_reason": self._reason(piece),
        }
        return self._object("chat.completion.chunk") | {"choices": [choice]}

    def _object(self, kind: str) -> dict[str, Any]:
        return {
            **self._head,
            "object": kind,
            "model": self.who.name,
            "system_fingerprint": self.who.fingerprint,
        }


class TextShape:
    """Text completions as OpenAI writes them."""

    def __init__(self, who: Answering, *, echoes: Sequence[str] = ()) -> None:
        """Write continuations; echoes: what each of them begins with, if anything."""
        self.who = who
        self._echoes = echoes
        self._offsets: Counter[int] = Counter()  # of the tokens that a stream has told
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": who.name,
            "system_fingerprint": who.fingerprint,
        }

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        echoed = [replace(each, text=self._echo(each.index) + each.text) for each in pieces]
        return {**self._head, "choices": [self._choice(piece) for piece in echoed], "usage": usage}

    def first(self, index: int) -> dict[str, Any] | None:
        echo = self._echo(index)
        return self.part(Piece(index=index, text=echo, tokens=0)) if echo else None

    def _echo(self, index: int) -> str:
        return self._echoes[index] if self._echoes else ""

    def part(self, piece: Piece) -> dict[str, Any] | None:
        if not (piece.text or piece.finish_reason or piece.scored):
            return None
        return {**self._head, "choices": [self._choice(piece)]}

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": usage}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        offset = self._offsets[piece.index]
        self._offsets[piece.index] += sum(len(each.text) for each in piece.scored)
        return {
            "index": piece.index,
            "text": piece.text,
            "logprobs": text_logprobs(piece.scored, offset=offset),
            "finish_reason": piece.finish_reason,
        }


async def answer(
    request: Request,
    engine: Engine,
    asked: GenerateRequest,
    generations: Sequence[Generation],
    *,
    shape: Shape,
) -> Response:
    """What was generated as one JSON object or as a stream of events."""
    stream = submit(engine, *generations)
    prompt_tokens = sum(len(generation.prompt_ids) for generation in generations)
    spend(request, prompt_tokens)
    if not asked.stream:
        pieces = await pieces_of(request, stream, shape.who)
        usage = _usage(prompt_tokens, sum(piece.tokens for piece in pieces))
        return JSONResponse(shape.whole(pieces, usage), headers=shape.who.headers)
    counted = asked.stream_options is not None and asked.stream_options.include_usage
    count = sum(generation.n for generation in generations)
    events = _events(
        request, stream, shape, count=count, prompt_tokens=prompt_tokens, counted=counted
    )
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | shape.who.headers
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(
    request: Request,
    stream: Stream,
    shape: Shape,
    *,
    count: int,
    prompt_tokens: int,
    counted: bool,
) -> AsyncIterator[str]:
    """Server-sent events; the stream is cancelled when nobody reads on."""
    tokens = 0
    uncounted = {"usage": None} if counted else {}
    try:
        for index in range(count):
            if first := shape.first(index):
                yield _event(first | uncounted)
        async for piece in stream:
            tokens += piece.tokens
            if part := shape.part(piece):
                yield _event(part | uncounted)
        if counted:
            yield _event(shape.last(_usage(prompt_tokens, tokens)))
        shape.who.report(tokens)
    except GenerationFailedError as error:
        shape.who.report(None)
        yield _event(_failed(error).body())
    finally:
        stream.cancel()
        spend(request, tokens)
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
