"""A request's body, bounded in size and time, as one of the requests in `protocol`."""

import asyncio
import json
from typing import Any

from fastapi import Request

from serving.api.protocol import RequestBody, parse
from serving.errors import ApiError

_MAX_BODY_BYTES = 1024 * 1024
_BODY_TIMEOUT_S = 60.0


async def read_body(request: Request, model: type[RequestBody]) -> RequestBody:
    """The request's body as one of those in `protocol`. Raises: ApiError."""
    return parse(model, await read_json(request))


async def read_json(request: Request) -> Any:
    """The request's body, whatever content type it claims: curl -d claims a form.

    Raises: ApiError: it is too large, too slow or no JSON.
    """
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
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON ({error}); send a JSON object") from error


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
