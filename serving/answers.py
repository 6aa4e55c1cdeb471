"""What the engine generates, as the JSON and the events that clients read."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from serving.engine import (
    DeviceFullError,
    Engine,
    Generation,
    GenerationFailedError,
    Piece,
    QueueFullError,
    Stream,
)
from serving.errors import ApiError
from serving.protocol import GenerateRequest

Answer = TypeVar("Answer")


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

    Raises: ApiError 429 with the time after which to try again; 400 where that would never help.
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


async def collect(stream: Stream) -> list[Piece]:
    """Each continuation as one whole piece."""
    whole: dict[int, Piece] = {}
    try:
        async for piece in stream:
            before = whole.get(piece.index, Piece(index=piece.index, text="", tokens=0))
            whole[piece.index] = replace(
                piece, text=before.text + piece.text, tokens=before.tokens + piece.tokens
            )
    except GenerationFailedError as error:
        raise _failed(error) from error
    finally:
        stream.cancel()
    return [whole[index] for index in sorted(whole)]


def _failed(error: GenerationFailedError) -> ApiError:
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


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Shape(Protocol):
    """One endpoint's way to write an answer."""

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        """All continuations in one object."""

    def first(self, index: int) -> dict[str, Any] | None:
        """What a stream says before a continuation's first token."""

    def part(self, piece: Piece) -> dict[str, Any]:
        """What a stream says of a piece."""

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        """What a stream says at its end, where it was asked to count."""


class ChatShape:
    """Chat completions as OpenAI writes them."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}
        self._model = model

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        choices = [
            {
                "index": piece.index,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
                "logprobs": None,
                "finish_reason": piece.finish_reason,
            }
            for piece in pieces
        ]
        return self._object("chat.completion") | {"choices": choices, "usage": usage}

    def first(self, index: int) -> dict[str, Any] | None:
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def part(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return self._chunk(piece.index, delta, piece.finish_reason)

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        return self._object("chat.completion.chunk") | {"choices": [], "usage": usage}

    def _chunk(self, index: int, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._object("chat.completion.chunk") | {"choices": [choice]}

    def _object(self, kind: str) -> dict[str, Any]:
        return {**self._head, "object": kind, "model": self._model, "system_fingerprint": None}


class TextShape:
    """Text completions as OpenAI writes them."""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "choices": [self._choice(piece) for piece in pieces], "usage": usage}

    def first(self, index: int) -> dict[str, Any] | None:  # noqa: ARG002
        return None

    def part(self, piece: Piece) -> dict[str, Any]:
        return {**self._head, "choices": [self._choice(piece)]}

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": usage}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.index,
            "text": piece.text,
            "logprobs": None,
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
    if not asked.stream:
        pieces = await unless_gone(request, collect(stream))
        usage = _usage(prompt_tokens, sum(piece.tokens for piece in pieces))
        return JSONResponse(shape.whole(pieces, usage))
    counted = asked.stream_options is not None and asked.stream_options.include_usage
    count = sum(generation.n for generation in generations)
    events = _events(stream, shape, count=count, prompt_tokens=prompt_tokens, counted=counted)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(
    stream: Stream, shape: Shape, *, count: int, prompt_tokens: int, counted: bool
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
            if piece.text or piece.finish_reason:
                yield _event(shape.part(piece) | uncounted)
        if counted:
            yield _event(shape.last(_usage(prompt_tokens, tokens)))
    except GenerationFailedError as error:
        yield _event(_failed(error).body())
    finally:
        stream.cancel()
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
