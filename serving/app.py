"""The HTTP side of the server: endpoints, who may ask them, health, metrics and a page to try it.

Talks to any `Engine`. Answers from the first moment on: 503 until the engine is there.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from serving import errors
from serving.api.answer_models import Health, Life, ModelAnswer, ModelsAnswer
from serving.api.described import REFUSAL, described
from serving.chat_page import chat_page
from serving.door import accounts, pages, requests
from serving.errors import ApiError, broken
from serving.metrics import Metrics
from serving.routes import admin, document, generation, responses, tokenizing
from serving.server import Server


def create_app(server: Server) -> FastAPI:
    """The application; `server.engine` may be set later."""
    refusals: dict[int | str, dict[str, Any]] = dict.fromkeys(("4XX", "5XX"), REFUSAL)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, responses=refusals)
    errors.install(app)
    _count_refusals(app, server.metrics)
    _add_status_routes(app, server)
    generation.install(app, server)
    responses.install(app, server)
    admin.install(app, server)
    tokenizing.install(app, server)
    document.install(app, server)
    accounts.install(app, server.config, server.metrics)
    pages.install(app, server.config, server.metrics)
    requests.install(app)  # outermost: what others refuse has an id and a line, too
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
    @app.get("/", response_class=HTMLResponse, description="A page to talk to the model.")
    async def page() -> HTMLResponse:
        return chat_page()

    @app.head("/health", include_in_schema=False)
    @app.get("/health", **described(gives=Health, said="Whether a token has been generated."))
    async def health() -> JSONResponse:
        """200 once a token has been generated, and for as long as that works."""
        engine = server.ready_engine()
        if engine.fault:
            raise broken(engine.fault.found)
        if engine.is_broken:
            raise ApiError(503, "nothing is generated now; the log says why", code="broken")
        return JSONResponse({"status": "Healthy"})

    @app.get("/live", **described(gives=Life, said="Whether the server answers at all."))
    async def live() -> JSONResponse:
        """200 for as long as the server answers, also while its engine is started (again)."""
        return JSONResponse({"status": "Alive"})

    @app.get("/metrics", response_class=PlainTextResponse, description="For Prometheus.")
    async def metrics() -> Response:
        own = await server.engine.own_metrics() if server.engine else ""
        text = server.metrics.text() + own.encode()
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/models/", include_in_schema=False)
    @app.get("/v1/models", **described(gives=ModelsAnswer, said="The names that may be asked."))
    async def models() -> dict[str, Any]:
        names = server.ready_versions().names()
        return {"object": "list", "data": [_model(server, name) for name in names]}

    @app.get("/v1/models/{name:path}", **described(gives=ModelAnswer, said="One of the names."))
    async def model(name: str) -> dict[str, Any]:
        return _model(server, name)


def _model(server: Server, name: str) -> dict[str, Any]:
    """A name as OpenAI lists models; root is the version behind it, or an adapter's base."""
    engine, versions = server.ready_engine(), server.ready_versions()
    version = versions.version_of(name)
    parent = versions.models[version].parent
    return {
        "id": name,
        "object": "model",
        "created": server.created_s,
        "owned_by": "kaitoflow",
        "root": version if version != name else parent or name,
        "parent": parent,
        "max_model_len": engine.context_tokens,
    }
