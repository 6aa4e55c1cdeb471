"""Prefect's REST API as the tests ask it: with the server's password and a token for changes."""

import base64
import functools
import os
import uuid
from typing import Any

import httpx2

_CLIENT = str(uuid.uuid4())


def ask(method: str, url: str, *, json: Any = None) -> httpx2.Response:
    """The answer of a server, logged in as the environment says."""
    headers = login() | (_token(url.partition("/api/")[0]) if method != "GET" else {})
    return httpx2.request(method, url, json=json, headers=headers, timeout=60, trust_env=False)


def login() -> dict[str, str]:
    """The header that says who asks; none where there is no password."""
    known = os.environ.get("PREFECT_API_AUTH_STRING", "")
    return {"Authorization": f"Basic {base64.b64encode(known.encode()).decode()}"} if known else {}


@functools.cache
def _token(server: str) -> dict[str, str]:
    url = f"{server}/api/csrf-token?client={_CLIENT}"
    while True:
        answer = httpx2.get(url, headers=login(), timeout=60, trust_env=False)
        if answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE:  # SQLite has one writer
            break
    if not answer.is_success:  # a server that asks for none
        return {}
    return {"Prefect-Csrf-Token": answer.json()["token"], "Prefect-Csrf-Client": _CLIENT}
