"""What web pages may ask of the server, and whether browsers show them the answer."""

from pathlib import Path

import httpx2
import pytest

from serving.app import Server, create_app
from serving.metrics import Metrics
from tasks.contract.programs.serving import ServerConfig

NAMED = "https://chat.example.com"
FOREIGN = "https://evil.example"


async def ask(
    method: str,
    path: str,
    *,
    headers: dict[str, str],
    origins: tuple[str, ...] = (),
    host: str = "127.0.0.1",
) -> httpx2.Response:
    """Ask a server that still loads its model, over no socket; an empty body where one is read."""
    config = ServerConfig(
        weights_dir=Path(), served_model_name="toy", cors_origins=origins, host=host
    )
    transport = httpx2.ASGITransport(app=create_app(Server(config, Metrics())))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:5000", trust_env=False
    ) as client:
        content = b'{"prompt": "a"}' if method == "POST" else b""
        return await client.request(method, path, headers=headers, content=content)


@pytest.mark.parametrize(
    ("origins", "origin", "shown_to"),
    [
        ((NAMED,), NAMED, NAMED),
        ((NAMED,), FOREIGN, None),
        ((NAMED,), "null", None),
        ((), NAMED, None),
        (("*",), FOREIGN, "*"),
    ],
)
async def test_an_answer_is_shown_to_the_pages_that_were_named(
    origins: tuple[str, ...], origin: str, shown_to: str | None
) -> None:
    answer = await ask("GET", "/v1/models", headers={"Origin": origin}, origins=origins)
    assert answer.status_code == 503
    assert answer.headers.get("access-control-allow-origin") == shown_to
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("origins", "origin", "is_let_in"),
    [((NAMED,), NAMED, True), ((NAMED,), FOREIGN, False), ((), NAMED, False)],
)
async def test_a_browser_that_asks_first_is_told_for_the_pages_that_were_named(
    origins: tuple[str, ...],
    origin: str,
    is_let_in: bool,
) -> None:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    answer = await ask("OPTIONS", "/v1/chat/completions", headers=headers, origins=origins)
    assert answer.is_success == is_let_in
    assert ("access-control-allow-origin" in answer.headers) == is_let_in
    if is_let_in:
        allowed = answer.headers["access-control-allow-headers"]
        assert allowed == headers["Access-Control-Request-Headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
