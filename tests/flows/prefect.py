"""Prefect's REST API as the tests ask it: with the server's password."""

import base64
import os
import time
from http import HTTPStatus
from typing import Any

import httpx2

_TRIES = 10


def ask(method: str, url: str, *, json: Any = None) -> httpx2.Response:
    """The answer of a server, logged in as the environment says.

    While its database is busy it says 503, and is asked again, as Prefect's own clients do.
    """
    for _ in range(_TRIES):
        answer = httpx2.request(
            method, url, json=json, headers=login(), timeout=150, trust_env=False
        )
        if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)
    return answer


def login() -> dict[str, str]:
    """The header that says who asks; none where there is no password."""
    known = os.environ.get("PREFECT_API_AUTH_STRING", "")
    return {"Authorization": f"Basic {base64.b64encode(known.encode()).decode()}"} if known else {}
