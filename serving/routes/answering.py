"""What the endpoints that generate have in common: a body, who answers it, and the answer."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serving.api.answer_models import Answer
from serving.api.answers import Answering
from serving.api.body import read_body
from serving.api.described import described
from serving.api.openai_protocol import ChatCompletionRequest, CompletionRequest
from serving.api.responses_protocol import ResponsesRequest
from serving.engine import Engine
from serving.server import Server

Asked = TypeVar("Asked", ChatCompletionRequest, CompletionRequest, ResponsesRequest)
Respond = Callable[[Request, Engine, Asked, Answering], Awaitable[Response]]


def add(
    app: FastAPI,
    server: Server,
    path: str,
    respond: Respond[Asked],
    *,
    takes: type[Asked],
    gives: type[Answer],
    said: str,
) -> None:
    """Add an endpoint that answers as a whole or as a stream; it is named after `respond`."""
    told = described(takes=(takes,), gives=gives, streams=True, said=said)

    @app.post(path, name=respond.__name__, **told)
    async def generated(request: Request) -> Response:
        asked = await read_body(request, takes)
        async with server.answering(request, asked.model) as who:
            request.state.model = who.version
            return await respond(request, server.ready_engine(), asked, who)
