"""The HTTP side of the server: OpenAI's API, KAITO's /chat, health, metrics and a page to try it.

Talks to any `Engine`. Answers from the first moment on: 503 until the engine is there.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from serving import errors, pages
from serving.answers import (
    ChatShape,
    TextShape,
    answer,
    check_rows,
    collect,
    submit,
    unless_gone,
)
from serving.engine import Engine, Generation
from serving.errors import ApiError, shown
from serving.generations import (
    check_length,
    check_token_ids,
    from_kaito,
    from_openai,
    kaito_result,
)
from serving.metrics import Metrics
from serving.protocol import (
    ChatCompletionRequest,
    ChatRequest,
    CompletionRequest,
    RequestBody,
    parse,
)
from tasks.contract.programs.serving import ServerConfig

_MAX_BODY_BYTES = 1024 * 1024
_BODY_TIMEOUT_S = 60.0


@dataclass
class Server:
    """What the routes share; `engine` is None while the model loads."""

    config: ServerConfig
    metrics: Metrics
    engine: Engine | None = None
    created_s: int = field(default_factory=lambda: int(time.time()))

    def ready_engine(self) -> Engine:
        """The engine. Raises: ApiError 503 while there is none."""
        if self.engine is None:
            raise ApiError(
                503,
                f"{self.config.served_model_name} is being loaded; ask again in a few seconds",
                headers={"Retry-After": "5"},
            )
        return self.engine

    def model_name(self, asked: str | None) -> str:
        """The served model that a request means. Raises: ApiError 404 with the names there are."""
        names = self.ready_engine().models
        name = asked or self.config.default_model or self.config.served_model_name
        if name in names:
            return name
        raise ApiError(
            404,
            f"model {shown(name)} was asked for, this server has: {', '.join(names)}",
            param="model",
            code="model_not_found",
        )


def create_app(server: Server) -> FastAPI:
    """The application; `server.engine` may be set later."""
    app = FastAPI(title="Kaitoflow", docs_url=None, redoc_url=None, openapi_url=None)
    errors.install(app)
    _count_refusals(app, server.metrics)
    _add_status_routes(app, server)
    _add_generation_routes(app, server)
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
        engine = server.ready_engine()
        return {"object": "list", "data": [_model(server, engine, name) for name in engine.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(server, server.ready_engine(), server.model_name(name))


def _model(server: Server, engine: Engine, name: str) -> dict[str, Any]:
    parent = engine.models[name]
    return {
        "id": name,
        "object": "model",
        "created": server.created_s,
        "owned_by": "kaitoflow",
        "root": parent or name,
        "parent": parent,
        "max_model_len": engine.context_tokens,
    }


def _add_generation_routes(app: FastAPI, server: Server) -> None:
    @app.post("/chat")
    async def chat(request: Request) -> dict[str, str]:
        asked = await read_body(request, ChatRequest)
        engine, name = server.ready_engine(), server.model_name(asked.model)
        generation = await asyncio.to_thread(from_kaito, engine, asked, name)
        answers = await unless_gone(request, collect(submit(engine, generation)))
        return {"Result": kaito_result(asked, answers[0].text)}

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        asked = await read_body(request, ChatCompletionRequest)
        engine, name = server.ready_engine(), server.model_name(asked.model)
        check_length(engine, *(message.content for message in asked.messages), param="messages")
        messages = [message.for_template() for message in asked.messages]
        prompt_ids = await asyncio.to_thread(engine.encode_chat, messages, model=name)
        limit = asked.max_completion_tokens or asked.max_tokens
        generation = from_openai(
            engine,
            asked,
            name,
            prompt_ids=prompt_ids,
            max_tokens=limit,
            prompt_field="messages",
        )
        return await answer(request, engine, asked, [generation], shape=ChatShape(name))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await read_body(request, CompletionRequest)
        engine, name = server.ready_engine(), server.model_name(asked.model)
        check_rows(engine, len(asked.prompt) * asked.n)
        generations = [
            from_openai(
                engine,
                asked,
                name,
                prompt_ids=await _encode(engine, prompt),
                max_tokens=asked.max_tokens or 16,  # as OpenAI has it for this endpoint
                prompt_field="prompt",
            )
            for prompt in asked.prompt
        ]
        return await answer(request, engine, asked, generations, shape=TextShape(name))


async def _encode(engine: Engine, prompt: str | list[int]) -> Sequence[int]:
    """A prompt's token ids, which may be what it is. Raises: ApiError."""
    if isinstance(prompt, list):
        check_token_ids(engine, prompt, param="prompt")
        return prompt
    check_length(engine, prompt, param="prompt")
    return await asyncio.to_thread(engine.encode_text, prompt)


async def read_body(request: Request, model: type[RequestBody]) -> RequestBody:
    """The request's body, whatever content type it claims: curl -d claims a form."""
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            body = await _whole(request)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body was not there after {_BODY_TIMEOUT_S:.0f} s; send it at once",
            headers={"Connection": "close"},
        ) from None
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON ({error}); send a JSON object") from error
    return parse(model, parsed)


async def _whole(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ApiError(
                413,
                f"the body is larger than {_MAX_BODY_BYTES} bytes; send a shorter prompt",
                headers={"Connection": "close"},
            )
    return bytes(body)


async def prove(engine: Engine) -> None:
    """Generate one token with every served model. Raises: GenerationFailedError."""
    for name in engine.models:
        prompt_ids = engine.encode_text("Hello")
        await collect(engine.submit(Generation(model=name, prompt_ids=prompt_ids, max_tokens=1)))
