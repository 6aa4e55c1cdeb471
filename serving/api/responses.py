"""Answers of OpenAI's /v1/responses: an object of items, or the events by which they come to be."""

import itertools
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from serving.api.answers import Answering, Usage
from serving.api.logprobs import token_logprobs
from serving.api.responses_protocol import ResponsesRequest
from serving.engine import FinishReason, Piece, Sampling, Scored, Tools
from serving.errors import ApiError
from serving.tool_calls import ToolCall

_Event = dict[str, Any]


class ResponseShape:
    """Writes one response; a `Shape` and a `Telling`, so that both ways say the same."""

    def __init__(
        self,
        asked: ResponsesRequest,
        who: Answering,
        *,
        sampling: Sampling,
        tools: Tools | None = None,
    ) -> None:
        """Write an answer; sampling: as it is drawn. tools: how calls in it are read, if any."""
        self.who = who
        self._items = _Items(tools)
        self._numbers = itertools.count()
        self._finish_reason: FinishReason | None = None
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": who.name,
            "background": False,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": None,
            "metadata": asked.metadata,
            "parallel_tool_calls": asked.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": sampling.temperature,
            "text": asked.text.told,
            "tool_choice": asked.told_choice,
            "tools": [tool.model_dump() | {"strict": bool(tool.strict)} for tool in asked.tools],
            "top_logprobs": asked.top_logprobs,
            "top_p": sampling.top_p,
            "truncation": "disabled",
        }

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        for piece in pieces:
            list(self.go_on(piece))
        return self._ended(usage)

    def begin(self) -> Iterator[str]:
        for kind in ("response.created", "response.in_progress"):
            yield self._written({"type": kind, "response": self._response("in_progress")})

    def go_on(self, piece: Piece) -> Iterator[str]:
        self._finish_reason = piece.finish_reason
        yield from map(self._written, self._items.add(piece))

    def end(self, usage: Usage) -> Iterator[str]:
        response = self._ended(usage)
        yield self._written({"type": f"response.{response['status']}", "response": response})

    def fail(self, error: ApiError) -> Iterator[str]:
        fault = {"code": "server_error", "message": str(error)}
        response = self._response("failed", error=fault)
        yield self._written({"type": "response.failed", "response": response})

    def _written(self, event: _Event) -> str:
        numbered = event | {"sequence_number": next(self._numbers)}
        return f"event: {event['type']}\ndata: {json.dumps(numbered, ensure_ascii=False)}\n\n"

    def _ended(self, usage: Usage) -> dict[str, Any]:
        cut = self._finish_reason == "length"
        return self._response(
            "incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage={
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        )

    def _response(self, status: str, **others: Any) -> dict[str, Any]:
        """The response as it stands now."""
        open_ends = {"error": None, "incomplete_details": None, "usage": None}
        return {**self._head, "status": status, "output": self._items.done, **open_ends, **others}


class _Items:
    """The items of a response as text comes in: messages, and calls between and behind them.

    done: those that nothing more is added to.
    """

    def __init__(self, tools: Tools | None) -> None:
        self._reader = tools.reader() if tools else None
        self.done: list[dict[str, Any]] = []
        self._message: dict[str, Any] | None = None  # that text goes on in
        self._text = ""
        self._scored: list[Scored] = []

    def add(self, piece: Piece) -> Iterator[_Event]:
        """The events of a piece."""
        is_last = piece.finish_reason is not None
        said, calls = piece.text, list[ToolCall]()
        if self._reader:
            said, calls = self._reader.read(piece.text, is_last=is_last)
        yield from self._say(said, piece.scored)
        for call in calls:
            yield from self._close("completed")
            yield from self._call(call)
        if is_last:
            if not self.done and self._message is None:
                yield from self._open()  # an answer of nothing is a message of nothing
            yield from self._close("incomplete" if piece.finish_reason == "length" else "completed")

    def _say(self, said: str, scored: Sequence[Scored]) -> Iterator[_Event]:
        """Text goes into a message; blanks before a call are none."""
        self._text += said
        self._scored += scored
        if self._message is not None:
            if said or scored:
                yield self._delta(said, scored)
        elif self._text.strip():
            yield from self._open()

    def _open(self) -> Iterator[_Event]:
        """Begin a message with what was held back."""
        self._message = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        yield self._event("output_item.added", item=self._message)
        yield self._event("content_part.added", **self._place, part=_part("", ()))
        if self._text or self._scored:
            yield self._delta(self._text, self._scored)

    def _delta(self, said: str, scored: Sequence[Scored]) -> _Event:
        logprobs = token_logprobs(scored)
        return self._event("output_text.delta", **self._place, delta=said, logprobs=logprobs)

    def _close(self, status: str) -> Iterator[_Event]:
        if self._message is not None:
            part = _part(self._text, self._scored)
            told = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._event("output_text.done", **self._place, **told)
            yield self._event("content_part.done", **self._place, part=part)
            item = self._message | {"status": status, "content": [part]}
            yield self._event("output_item.done", item=item)
            self.done = [*self.done, item]
        self._message, self._text, self._scored = None, "", []

    def _call(self, call: ToolCall) -> Iterator[_Event]:
        item_id = f"fc_{uuid.uuid4().hex}"
        item = {
            "id": item_id,
            "type": "function_call",
            "call_id": call.written()["id"],
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        begun = item | {"arguments": "", "status": "in_progress"}
        kind, own = "function_call_arguments", {"item_id": item_id}
        yield self._event("output_item.added", item=begun)
        yield self._event(f"{kind}.delta", **own, delta=call.arguments)
        yield self._event(f"{kind}.done", **own, name=call.name, arguments=call.arguments)
        yield self._event("output_item.done", item=item)
        self.done = [*self.done, item]

    @property
    def _place(self) -> dict[str, Any]:
        """Where text goes: the message's one part."""
        assert self._message is not None
        return {"item_id": self._message["id"], "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> _Event:
        return {"type": f"response.{kind}", "output_index": len(self.done), **fields}


def _part(text: str, scored: Sequence[Scored]) -> dict[str, Any]:
    logprobs = token_logprobs(scored)
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
