"""When a Workspace is retuned next is told where a person looks, as far as it can be known."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.commands.adapters import print_history
from flows.commands.show import get_workspaces
from flows.places.next_retuning import next_by_annotations, next_retuning
from flows.places.place import Place
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.platform.current import local_platform
from tasks.settings import settings
from tests.builders import tuning_manifest
from tests.dataset.web import running_web

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
WEEKLY, OFTEN = "0 3 * * 1 Europe/Berlin", "6h"
DEPLOYMENT = "00000000-0000-0000-0000-000000000001"


def workspace(schedule: str | None) -> Workspace:
    manifest = tuning_manifest()
    if schedule:
        manifest["metadata"]["annotations"] = {"kaitoflow.io/retune-schedule": schedule}
    return parse_workspace(manifest, source="test")


async def asked(schedule: str | None, prefect: dict[str, str]) -> str:
    given = workspace(schedule)
    return await next_retuning(given, pool="local", prefect=prefect, unasked="who knows", now=NOW)


async def told(schedule: str, *kept: dict[str, Any]) -> str:
    """What is said where Prefect's server has these schedules."""
    with running_web() as web:
        found = json.dumps({"id": DEPLOYMENT}).encode()
        web.serve_bytes("/api/deployments/name/retune-workspace/local", found)
        there = json.dumps([{"id": DEPLOYMENT, **each} for each in kept]).encode()
        web.serve_bytes(f"/api/deployments/{DEPLOYMENT}/schedules", there)
        return await asked(schedule, {"PREFECT_API_URL": f"{web.address}/api"})


def kept(*, active: bool = True, slug: str = "default/tuned", **schedule: Any) -> dict[str, Any]:
    return {"slug": slug, "active": active, "schedule": schedule}


async def test_what_asks_for_no_schedule_is_never_retuned_by_itself() -> None:
    assert await asked(None, {}) == ""


async def test_without_a_server_to_ask_the_annotation_is_told_and_what_it_depends_on() -> None:
    assert await asked(WEEKLY, {}) == f"Mon 2026-12-07 03:00 Europe/Berlin ({WEEKLY}); who knows"
    assert await asked(OFTEN, {}) == "within 6 h (every 6 h); who knows"


async def test_an_interval_is_told_to_the_minute_once_prefect_has_begun_it() -> None:
    began = kept(interval=21600.0, anchor_date="2026-11-30T07:15:00Z")
    assert await told(OFTEN, began) == "Mon 2026-11-30 13:15 UTC, in 75 min (every 6 h)"


async def test_one_that_is_paused_in_prefect_is_told_to_be() -> None:
    assert await told(WEEKLY, kept(active=False)) == f"paused in Prefect ({WEEKLY})"


async def test_one_that_prefect_does_not_have_is_told_not_to_be_there_yet() -> None:
    assert (await told(WEEKLY, kept(slug="default/other"))).endswith("not have the schedule yet")


async def test_a_server_that_is_away_is_told_by_its_address() -> None:
    said = await asked(WEEKLY, {"PREFECT_API_URL": "http://127.0.0.1:1/api"})
    assert said.endswith("Prefect, which starts it, did not answer at http://127.0.0.1:1/api")


def test_a_schedule_that_is_refused_has_no_next_time() -> None:
    assert next_by_annotations({"kaitoflow.io/retune-schedule": "sometimes"}, NOW) == ""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    caches = (settings, local_platform)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("schedule", "has_column"), [(OFTEN, True), (None, False)])
def test_get_wide_has_a_column_of_it_where_any_is_retuned(
    capsys: pytest.CaptureFixture[str], schedule: str | None, has_column: bool
) -> None:
    local_platform().store.apply(Manifests(workspace=workspace(schedule)))
    get_workspaces(
        (), namespace=None, all_namespaces=False, output="wide", watch=False, place=Place()
    )
    shown = capsys.readouterr().out
    assert ("NEXTRETUNING   AGE" in shown, "within 6 h   " in shown) == (has_column, has_column)


@pytest.mark.usefixtures("home")
def test_history_ends_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    local_platform().store.apply(Manifests(workspace=workspace(OFTEN)))
    print_history("tuned", namespace=None, place=Place())
    assert capsys.readouterr().out.splitlines()[-1] == (
        "next retuning: within 6 h (every 6 h); as long as `kaitoflow server` runs"
    )
