"""OpenAI's /v1/responses, asked and answered as a chat completion; nothing is kept of it."""

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serving.api.answer_models import ResponseAnswer
from serving.api.answers import Answering, answer
from serving.api.generations import from_chat
from serving.api.responses import ResponseShape
from serving.api.responses_protocol import ResponsesRequest
from serving.engine import Engine
from serving.errors import ApiError
from serving.routes import answering
from serving.server import Server

_NAMED = {"messages": "input", "response_format": "text.format"}  # what a refusal calls them


def install(app: FastAPI, server: Server) -> None:
    """Add the endpoint."""
    answering.add(
        app,
        server,
        "/v1/responses",
        responses,
        takes=ResponsesRequest,
        gives=ResponseAnswer,
        said="The next turn, by items; nothing is kept.",
    )


async def responses(
    request: Request, engine: Engine, asked: ResponsesRequest, who: Answering
) -> Response:
    """A conversation's next turn, by items."""
    try:
        generation, tools = await from_chat(engine, asked.chat, who.version, prompt_field="input")
    except ApiError as error:
        error.param = _NAMED.get(error.param or "", error.param)
        raise
    who = who.told_of(asked.chat, generation)
    shape = ResponseShape(asked, who, sampling=generation.sampling, tools=tools)
    telling = shape if asked.stream else None
    return await answer(request, engine, [generation], shape=shape, telling=telling)
