"""What a client of the server reads when a request cannot be answered: OpenAI's error shape.

{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}   all four keys, always
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "queue_full",
    503: "not_ready",
}
_SEE = "GET /openapi.json lists those that there are"
# What models do that embed, and what is said of it by one that writes.
_EMBEDDINGS = {"/v1/embeddings", "/v1/rerank", "/v1/score", "/pooling"}
_WRITES = (
    "the states of a model that writes are trained for its next token, and what is made of them"
    " compares badly: ask a server of an embedding model"
)
_SHOWN_CHARACTERS = 60  # of what a client sent, in an answer to it


def shown(value: object) -> str:
    """What a client sent, short enough to be said back to it."""
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


class ApiError(Exception):
    """A refusal with its HTTP status; param names the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code or _CODES.get(status, "internal_error")
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The error as clients read it, in a response or in a stream."""
        kind = "internal_error" if self.status == 500 else "invalid_request_error"
        return {
            "error": {
                "message": str(self),
                "type": _TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The error as a response."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def stopping() -> ApiError:
    """What is said of a request that comes, or is under way, when the server goes."""
    return ApiError(
        503,
        "the server is stopping; ask again in a few seconds, when another is there",
        code="stopping",
        headers={"Retry-After": "5"},
    )


def broken(reason: str) -> ApiError:
    """What is said of a request that comes, or is under way, when the engine is at its end."""
    return ApiError(
        503,
        f"nothing is generated any more ({reason}) and the server ends; ask again when another is"
        " there",
        code="broken",
        headers={"Retry-After": "30"},
    )


def restarting() -> ApiError:
    """What is said of a request that comes, or is under way, when the engine has died."""
    return ApiError(
        503,
        "the engine has ended and is started again; ask again in a few seconds",
        code="restarting",
        headers={"Retry-After": "10"},
    )


def install(app: FastAPI) -> None:
    """Make every error of the app, the framework's own too, come in the one shape."""

    @app.exception_handler(ApiError)
    async def refused(_request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        asked = f"{request.method} {shown(request.url.path)}"
        message = f"{asked}: {error.detail}"
        if error.status_code in (404, 405):
            fix = _WRITES if request.url.path in _EMBEDDINGS else _SEE
            message = f"{asked} was asked for, this server has no such endpoint; {fix}"
        headers = dict(error.headers) if error.headers else None
        return ApiError(error.status_code, message, headers=headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return ApiError(400, str(error.errors()[0]["msg"])).response()

    @app.exception_handler(Exception)
    async def defect(request: Request, _error: Exception) -> JSONResponse:
        # The log has the trace: uvicorn writes it. A client is told only that this is a defect.
        message = "the server failed at this request; its log says why, please report it"
        headers = {"X-Request-Id": getattr(request.state, "request_id", "")}
        return ApiError(500, message, headers=headers).response()
