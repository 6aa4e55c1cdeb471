"""The watcher asks Prefect's server as whoever the environment names, and says what went wrong."""

import pytest

from flows.watcher.prefect_api import PrefectApi
from tasks.errors import PrefectUnavailable
from tests.dataset.web import running_web


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
