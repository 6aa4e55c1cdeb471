"""What web pages may ask of the server, and whether browsers show them the answer."""

from pathlib import Path

import httpx2
import pytest

from serving.app import create_app
from serving.metrics import Metrics
from serving.server import Server
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


OWN = "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("origins", "headers", "code"),
    [
        ((), {"Origin": FOREIGN}, "foreign_origin"),
        ((), {"Origin": "null"}, "foreign_origin"),
        ((), {"Origin": "http://127.0.0.1:8080"}, "foreign_origin"),
        ((NAMED,), {"Origin": FOREIGN}, "foreign_origin"),
        ((), {"Origin": "http://evil.example:5000", "Host": "evil.example:5000"}, "foreign_host"),
        ((NAMED,), {"Host": "[::1"}, "foreign_host"),
        ((), {"Host": "127.0.0.1.evil.example"}, "foreign_host"),
        ((), {"Content-Type": "text/plain"}, "unsupported_media_type"),
        ((), {"Content-Type": "Text/Plain;charset=UTF-8"}, "unsupported_media_type"),
        ((), {"Content-Type": "multipart/form-data; boundary=x"}, "unsupported_media_type"),
        (("*",), {"Origin": FOREIGN, "Content-Type": "text/plain"}, "unsupported_media_type"),
        ((), {}, "not_ready"),
        ((), {"Origin": OWN}, "not_ready"),
        ((), {"Origin": "http://localhost:5000", "Host": "LOCALHOST:5000"}, "not_ready"),
        ((), {"Origin": "http://[::1]:5000", "Host": "[::1]:5000"}, "not_ready"),
        ((), {"Origin": "http://localhost", "Host": "localhost:80"}, "not_ready"),
        ((NAMED,), {"Origin": NAMED}, "not_ready"),
        ((NAMED,), {"Origin": NAMED, "Host": "chat.example.com"}, "not_ready"),
        (("*",), {"Origin": FOREIGN, "Host": "evil.example"}, "not_ready"),
        ((), {"Content-Type": "application/x-www-form-urlencoded"}, "not_ready"),
        ((), {"Content-Type": "application/json"}, "not_ready"),
    ],
)
async def test_a_page_has_work_done_when_it_is_the_servers_own_or_named(
    origins: tuple[str, ...], headers: dict[str, str], code: str
) -> None:
    for path in ("/chat", "/v1/completions"):
        answer = await ask("POST", path, headers=headers, origins=origins)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code
        assert answer.status_code == {"not_ready": 503, "unsupported_media_type": 415}.get(
            code, 403
        )


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models"])
async def test_nothing_is_read_by_a_page_whose_name_was_made_to_mean_this_machine(
    path: str,
) -> None:
    answer = await ask("GET", path, headers={"Host": "evil.example:5000"})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "foreign_host"


async def test_a_server_for_others_answers_to_any_name_but_not_to_pages_of_other_sites() -> None:
    async def code(headers: dict[str, str]) -> str:
        answer = await ask("POST", "/chat", headers=headers, host="0.0.0.0")
        return str(answer.json()["error"]["code"])

    assert await code({"Host": "models.example"}) == "not_ready"
    assert await code({"Host": "models.example", "Origin": "https://models.example"}) == "not_ready"
    assert await code({"Host": "models.example", "Origin": FOREIGN}) == "foreign_origin"


async def test_a_named_page_can_read_why_it_was_refused() -> None:
    headers = {"Origin": NAMED, "Content-Type": "text/plain"}
    answer = await ask("POST", "/chat", headers=headers, origins=(NAMED,))
    assert answer.status_code == 415
    assert answer.headers["access-control-allow-origin"] == NAMED
