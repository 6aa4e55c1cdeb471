"""Prefect's server is asked as whoever the environment names, and what went wrong is said."""

import json
from uuid import UUID

import pytest

from flows.prefect_api import PrefectApi
from tasks.contract.errors import PrefectUnavailable
from tests.dataset.web import Handler, running_web


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ({"PREFECT_API_KEY": "k"}, "Bearer k"),
        ({"PREFECT_API_AUTH_STRING": "user:word"}, "Basic dXNlcjp3b3Jk"),
        ({}, None),
    ],
)
async def test_it_logs_in_as_it_was_told(login: dict[str, str], sent: str | None) -> None:
    found = b'{"id": "00000000-0000-0000-0000-000000000001"}'
    with running_web() as web:
        web.serve_bytes("/api/deployments/name/run/pool", found)
        async with PrefectApi({"PREFECT_API_URL": f"{web.address}/api", **login}) as prefect:
            assert str(await prefect.deployment_id("run", "pool")).endswith("1")
    assert web.asked[0].get("authorization", web.asked[0].get("Authorization")) == sent


async def test_what_is_refused_is_told_at_once_with_what_to_look_at() -> None:
    with running_web() as web:
        web.serve("/api/deployments/name/run/pool", lambda handler: handler.answer(401, b"who?"))
        async with PrefectApi({"PREFECT_API_URL": f"{web.address}/api"}) as prefect:
            with pytest.raises(PrefectUnavailable, match="401 who.; see that it runs, and that"):
                await prefect.deployment_id("run", "pool")
    assert len(web.asked) == 1


async def test_a_server_that_wants_a_token_for_changes_gets_one_and_keeps_it() -> None:
    def change(handler: Handler) -> None:
        said = handler.headers.get("Prefect-Csrf-Token", "")
        handler.answer(*((200, b"[]") if said == "t" else (403, b"Missing CSRF token.")))

    with running_web() as web:
        web.serve("/api/flow_runs/filter", change)
        web.serve_bytes("/api/csrf-token", b'{"token": "t"}')
        async with PrefectApi({"PREFECT_API_URL": f"{web.address}/api"}) as prefect:
            assert await prefect.crashed_runs() == await prefect.crashed_runs() == []
    assert len(web.asked) == 4


async def test_who_does_not_wait_is_told_at_once_that_it_is_away() -> None:
    async with PrefectApi({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, waits_s=()) as prefect:
        with pytest.raises(PrefectUnavailable, match="ConnectError"):
            await prefect.workspaces_with_run()


@pytest.mark.parametrize("number", [3, 200, 401])
async def test_workspaces_with_a_run_are_read_page_by_page(number: int) -> None:
    runs = [
        {"id": str(UUID(int=n)), "name": "run", "tags": ["run-workspace", f"workspace-uid:{n}"]}
        for n in range(number)
    ]

    def page(handler: Handler) -> None:
        asked = json.loads(handler.body())
        shown = runs[asked["offset"] :][: asked["limit"]]
        handler.answer(200, json.dumps(shown).encode())

    with running_web() as web:
        web.serve("/api/flow_runs/filter", page)
        async with PrefectApi({"PREFECT_API_URL": f"{web.address}/api"}) as prefect:
            assert await prefect.workspaces_with_run() == {str(n) for n in range(number)}
    assert len(web.asked) == number // 200 + 1
