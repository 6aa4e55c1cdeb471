"""The HTTP side of the server: OpenAI's API, KAITO's /chat, health, metrics and a page to try it.

Talks to any `Engine`. Answers from the first moment on: 503 until the engine is there.
"""

import asyncio
from collections.abc import Sequence
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from serving import errors
from serving.api.answers import (
    Answering,
    ChatShape,
    TextShape,
    answer,
    check_rows,
    pieces_of,
    submit,
)
from serving.api.body import read_body
from serving.api.generations import (
    check_length,
    check_token_ids,
    encode_conversation,
    from_kaito,
    from_openai,
    kaito_result,
)
from serving.api.kaito_protocol import ChatRequest
from serving.api.openai_protocol import ChatCompletionRequest, CompletionRequest, GenerateRequest
from serving.door import accounts, pages
from serving.engine import Engine
from serving.errors import ApiError
from serving.metrics import Metrics
from serving.routes import admin, tokenizing
from serving.server import Server


def create_app(server: Server) -> FastAPI:
    """The application; `server.engine` may be set later."""
    app = FastAPI(title="Kaitoflow", docs_url=None, redoc_url=None, openapi_url=None)
    errors.install(app)
    _count_refusals(app, server.metrics)
    _add_status_routes(app, server)
    _add_generation_routes(app, server)
    admin.install(app, server)
    tokenizing.install(app, server)
    accounts.install(app, server.config, server.metrics)
    pages.install(app, server.config, server.metrics)
    return app


def _count_refusals(app: FastAPI, metrics: Metrics) -> None:
    refuse = app.exception_handlers[ApiError]

    @app.exception_handler(ApiError)
    async def counted(request: Request, error: ApiError) -> Response:
        if error.status not in (499, 503):  # hung up; health checks during the load
            metrics.refused.labels(str(error.status)).inc()
        response: Response = await refuse(request, error)  # type: ignore[misc]
        return response


def _add_status_routes(app: FastAPI, server: Server) -> None:
    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(resources.files("serving").joinpath("chat.html").read_text())

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> JSONResponse:
        """200 once a token has been generated, and for as long as that works."""
        engine = server.ready_engine()
        if engine.is_broken:
            raise ApiError(503, "generation keeps failing; the log says why", code="broken")
        return JSONResponse({"status": "Healthy"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    @app.get("/v1/models/")
    async def models() -> dict[str, Any]:
        names = server.ready_versions().names()
        return {"object": "list", "data": [_model(server, name) for name in names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(server, name)


def _model(server: Server, name: str) -> dict[str, Any]:
    """A name as OpenAI lists models; root is the version behind it, or an adapter's base."""
    engine, version = server.ready_engine(), server.ready_versions().version_of(name)
    parent = engine.models[version].parent
    return {
        "id": name,
        "object": "model",
        "created": server.created_s,
        "owned_by": "kaitoflow",
        "root": version if version != name else parent or name,
        "parent": parent,
        "max_model_len": engine.context_tokens,
    }


def _add_generation_routes(app: FastAPI, server: Server) -> None:
    @app.post("/chat")
    async def chat(request: Request) -> JSONResponse:
        asked = await read_body(request, ChatRequest)
        engine = server.ready_engine()
        with server.answering(request, asked.model) as who:
            generation = await asyncio.to_thread(from_kaito, engine, asked, who.version)
            stream = submit(engine, generation)
            accounts.spend(request, len(generation.prompt_ids))
            answers = await pieces_of(request, stream, who)
        result = {"Result": kaito_result(asked, answers[0].text)}
        return JSONResponse(result, headers=who.headers)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        asked = await read_body(request, ChatCompletionRequest)
        with server.answering(request, asked.model) as who:
            return await _chat(request, server.ready_engine(), asked, who)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await read_body(request, CompletionRequest)
        with server.answering(request, asked.model) as who:
            return await _complete(request, server.ready_engine(), asked, who)


async def _chat(
    request: Request, engine: Engine, asked: ChatCompletionRequest, who: Answering
) -> Response:
    prompt_ids = await asyncio.to_thread(encode_conversation, engine, asked, who.version)
    await _check_schema(engine, asked)
    tools = engine.tools_of(who.version) if asked.may_call else None
    generation = from_openai(
        engine,
        asked,
        who.version,
        prompt_ids=prompt_ids,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        prompt_field="messages",
        shows_special=tools is not None and tools.are_special,
    )
    return await answer(request, engine, asked, [generation], shape=ChatShape(who, tools=tools))


async def _complete(
    request: Request, engine: Engine, asked: CompletionRequest, who: Answering
) -> Response:
    check_rows(engine, len(asked.prompt) * asked.n)
    await _check_schema(engine, asked)
    generations = [
        from_openai(
            engine,
            asked,
            who.version,
            prompt_ids=await _encode(engine, prompt),
            max_tokens=asked.max_tokens or 16,  # as OpenAI has it for this endpoint
            prompt_field="prompt",
            scores_prompt=asked.echo,
        )
        for prompt in asked.prompt
    ]
    echoed = [prompt for prompt in asked.prompt for _ in range(asked.n)] if asked.echo else ()
    echoes = [each if isinstance(each, str) else engine.decode(each) for each in echoed]
    return await answer(request, engine, asked, generations, shape=TextShape(who, echoes=echoes))


async def _check_schema(engine: Engine, asked: GenerateRequest) -> None:
    if asked.wanted_schema is not None:
        await asyncio.to_thread(engine.check_schema, asked.wanted_schema)


async def _encode(engine: Engine, prompt: str | list[int]) -> Sequence[int]:
    """A prompt's token ids, which may be what it is. Raises: ApiError."""
    if isinstance(prompt, list):
        check_token_ids(engine, prompt, param="prompt")
        return prompt
    check_length(engine, len(prompt), param="prompt")
    return await asyncio.to_thread(engine.encode_text, prompt)
