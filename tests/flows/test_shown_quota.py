"""A cloud's quota is a limit on Prefect's page, as it stands, and holds nobody back."""

import os

import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tasks.nodes.aks.quota import Quota
from tasks.nodes.aks.shown_quota import limit_name, show_quota

FAMILY = Quota(family="Standard NCASv3_T4 Family", used=6, limit=8)


async def test_a_quota_is_shown_with_what_is_used_and_what_is_on_its_way(prefect_home: str) -> None:
    there = {
        PREFECT_API_URL: prefect_home,
        PREFECT_API_AUTH_STRING: os.environ["PREFECT_API_AUTH_STRING"],
    }
    name = limit_name(FAMILY, "westeurope")
    assert name == "kaitoflow-quota-westeurope-Standard-NCASv3_T4-Family"
    with temporary_settings(there):
        for coming, more in ((0, 0), (4, 0), (4, 92)):
            quota = Quota(family=FAMILY.family, used=6, limit=8 + more)
            await show_quota(quota, "westeurope", coming)
            async with get_client() as client:
                shown = await client.read_global_concurrency_limit_by_name(name)
            assert (shown.limit, shown.active_slots) == (8 + more, 6 + coming)


async def test_what_cannot_be_shown_is_logged_and_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        await show_quota(FAMILY, "nowhere", 0)
    assert "quota not shown" in caplog.text
