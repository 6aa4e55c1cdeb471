"""OpenAI's /v1/responses, asked and answered as a chat completion; nothing is kept of it."""

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serving.api.answer_models import ResponseAnswer
from serving.api.answers import answer
from serving.api.body import read_body
from serving.api.described import described
from serving.api.generations import from_chat
from serving.api.responses import ResponseShape
from serving.api.responses_protocol import ResponsesRequest
from serving.errors import ApiError
from serving.server import Server


def install(app: FastAPI, server: Server) -> None:
    """Add the endpoint."""

    @app.post(
        "/v1/responses",
        **described(
            takes=(ResponsesRequest,),
            gives=ResponseAnswer,
            streams=True,
            said="The next turn, by items; nothing is kept.",
        ),
    )
    async def responses(request: Request) -> Response:
        asked = await read_body(request, ResponsesRequest)
        with server.answering(request, asked.model) as who:
            engine = server.ready_engine()
            try:
                generation, tools = await from_chat(
                    engine, asked.chat, who.version, prompt_field="input"
                )
            except ApiError as error:
                named = {"messages": "input", "response_format": "text.format"}
                error.param = named.get(error.param or "", error.param)
                raise
            shape = ResponseShape(asked, who, sampling=generation.sampling, tools=tools)
            telling = shape if asked.stream else None
            return await answer(request, engine, [generation], shape=shape, telling=telling)
