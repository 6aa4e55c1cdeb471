"""GET /openapi.json: every endpoint with what it takes, gives and refuses, as it is served."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from serving.api.answer_models import ErrorAnswer
from serving.api.described import SCHEMAS
from serving.api.kaito_protocol import ChatRequest
from serving.api.openai_protocol import ChatCompletionRequest, CompletionRequest
from serving.api.responses_protocol import ResponsesRequest
from serving.door.accounts import is_administrators, is_open
from serving.routes import admin, tokenizing
from serving.server import Server

_BODIES = (
    ChatRequest,
    ChatCompletionRequest,
    CompletionRequest,
    ResponsesRequest,
    *tokenizing.BODIES,
    *admin.BODIES,
)
_SUMMARY = "OpenAI's API, KAITO's /chat, and adapters that come and go"
_KEYS = {
    "userKey": "One of the keys that the server was given for those who ask",
    "adminKey": "One of the keys of those who load and move adapters",
}


def install(app: FastAPI, server: Server) -> None:
    """Add the endpoint; after all others."""

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> dict[str, Any]:
        return describe(app, asks_for_keys=server.config.user_keys_file is not None)


def describe(app: FastAPI, *, asks_for_keys: bool) -> dict[str, Any]:
    """The app's document, by OpenAPI 3.1."""
    document = get_openapi(
        title="Kaitoflow", version=version("kaitoflow"), routes=_routes(app), summary=_SUMMARY
    )
    _, bodies = models_json_schema(
        [(model, "validation") for model in (*_BODIES, ErrorAnswer)], ref_template=SCHEMAS
    )
    components = document["components"]
    components["schemas"] |= bodies["$defs"]
    components["securitySchemes"] = {
        name: {"type": "http", "scheme": "bearer", "description": said}
        for name, said in _KEYS.items()
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["security"] = _security(path, asks_for_keys=asks_for_keys)
    return document


def _security(path: str, *, asks_for_keys: bool) -> list[dict[str, list[str]]]:
    """Which key an endpoint asks for, if any."""
    if is_administrators(path):
        return [{"adminKey": []}]
    return [{"userKey": []}] if asks_for_keys and not is_open(path) else []


def _routes(app: FastAPI) -> list[APIRoute]:
    return [route for route in app.routes if isinstance(route, APIRoute)]
