"""Chat and text completions, as OpenAI writes their answers and the chunks of their streams."""

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from serving.api.answers import Answering, Shape, Usage
from serving.api.logprobs import chat_logprobs, text_logprobs
from serving.api.openai_protocol import GenerateRequest, StreamOptions
from serving.engine import Generation, Piece, Tools
from serving.errors import ApiError
from serving.tool_calls import CallReader, ToolCall


class _Chunked(Shape, Protocol):
    """A shape that streams tell in chunks of one kind."""

    def first(self, index: int) -> dict[str, Any] | None:
        """What a stream says before a continuation's first token."""

    def part(self, piece: Piece) -> dict[str, Any] | None:
        """What a stream says of a piece; None = nothing yet."""

    def last(self, usage: Usage) -> dict[str, Any]:
        """What a stream says at its end, where it was asked to count."""


@dataclass
class Chunks:
    """Tells an answer in chunks.

    count: of its continuations. counted: whether a last chunk tells what it cost.
    so_far: what it has cost until now, where each chunk is to tell it.
    """

    shape: _Chunked
    count: int
    counted: bool
    so_far: Usage | None = None

    def begin(self) -> Iterator[str]:
        for index in range(self.count):
            if first := self.shape.first(index):
                yield self._chunk(first)

    def go_on(self, piece: Piece) -> Iterator[str]:
        if self.so_far:
            tokens = self.so_far.completion_tokens + piece.tokens
            self.so_far = replace(self.so_far, completion_tokens=tokens)
        if part := self.shape.part(piece):
            yield self._chunk(part)

    def _chunk(self, chunk: dict[str, Any]) -> str:
        told = {"usage": written(self.so_far) if self.so_far else None} if self.counted else {}
        return _event(chunk | told)

    def end(self, usage: Usage) -> Iterator[str]:
        if self.counted:
            yield _event(self.shape.last(usage))
        yield _DONE

    def fail(self, error: ApiError) -> Iterator[str]:
        yield _event(error.body())
        yield _DONE


_DONE = "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def chunks_of(
    asked: GenerateRequest, generations: Sequence[Generation], shape: _Chunked
) -> Chunks | None:
    """How the answer is told where a stream was asked for; None = as a whole."""
    if not asked.stream:
        return None
    options = asked.stream_options or StreamOptions()
    prompt_tokens = sum(len(generation.prompt_ids) for generation in generations)
    return Chunks(
        shape,
        count=sum(generation.n for generation in generations),
        counted=options.include_usage,
        so_far=Usage(prompt_tokens, 0) if options.continuous_usage_stats else None,
    )


def written(usage: Usage) -> dict[str, int]:
    """The cost as completions tell it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class ChatShape:
    """Chat completions as OpenAI writes them."""

    def __init__(self, who: Answering, *, tools: Tools | None = None) -> None:
        """Write answers; tools: how calls in them are read, where there may be any."""
        self.who = who
        self._tools = tools
        self._readers: dict[int, CallReader] = {}
        self._calls: Counter[int] = Counter()
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        choices = [self._choice(piece) for piece in pieces]
        return self._object("chat.completion") | {"choices": choices, "usage": written(usage)}

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
            self._readers[piece.index] = self._tools.reader()
        said, calls = self._readers[piece.index].read(piece.text, is_last=bool(piece.finish_reason))
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

    def last(self, usage: Usage) -> dict[str, Any]:
        return self._object("chat.completion.chunk") | {"choices": [], "usage": written(usage)}

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

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        echoed = [replace(each, text=self._echo(each.index) + each.text) for each in pieces]
        choices = [self._choice(piece) for piece in echoed]
        return {**self._head, "choices": choices, "usage": written(usage)}

    def first(self, index: int) -> dict[str, Any] | None:
        echo = self._echo(index)
        return self.part(Piece(index=index, text=echo, tokens=0)) if echo else None

    def _echo(self, index: int) -> str:
        return self._echoes[index] if self._echoes else ""

    def part(self, piece: Piece) -> dict[str, Any] | None:
        if not (piece.text or piece.finish_reason or piece.scored):
            return None
        return {**self._head, "choices": [self._choice(piece)]}

    def last(self, usage: Usage) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": written(usage)}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        offset = self._offsets[piece.index]
        self._offsets[piece.index] += sum(len(each.text) for each in piece.scored)
        return {
            "index": piece.index,
            "text": piece.text,
            "logprobs": text_logprobs(piece.scored, offset=offset),
            "finish_reason": piece.finish_reason,
        }
