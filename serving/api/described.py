"""How an endpoint is described in the document at /openapi.json, beside its code."""

from typing import Any

from pydantic import BaseModel

from serving.api.answer_models import Answer, ErrorAnswer

SCHEMAS = "#/components/schemas/{model}"
# Not by its model, which FastAPI would take for what the endpoint answers otherwise: text, a page.
REFUSAL = {
    "description": "A refusal, with what to do",
    "content": {
        "application/json": {"schema": {"$ref": SCHEMAS.format(model=ErrorAnswer.__name__)}}
    },
}


def described(
    *,
    takes: tuple[type[BaseModel], ...] = (),
    gives: type[Answer] | None = None,
    streams: bool = False,
    said: str = "",
) -> dict[str, Any]:
    """The keywords of a route.

    takes: bodies, one of which is sent. gives: what is answered; None = text. streams: whether
    events are answered where they are asked for. said: what it does, in a sentence.
    """
    content: dict[str, Any] = {}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    ok: dict[str, Any] = {"description": "The answer", "content": content}
    if gives:
        ok["model"] = gives
    return {
        "responses": {200: ok},
        "response_model": None,
        "openapi_extra": {"requestBody": _body(takes)} if takes else None,
        "description": said,
    }


def _body(takes: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    schemas = [{"$ref": SCHEMAS.format(model=model.__name__)} for model in takes]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"required": True, "content": {"application/json": {"schema": schema}}}
