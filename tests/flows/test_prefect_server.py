"""A Prefect server of ours listens to its owner: nobody else's programs, and no other page."""

import json
import os
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prefect.server.api import server

from flows.prefect_process import answer_only_to
from flows.prefect_server import _find, _password
from tests.flows.prefect import ask, login


def test_the_password_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    made = _password(tmp_path)
    assert _password(tmp_path) == made
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    assert len(made) > len("kaitoflow:") + 30


def test_an_empty_password_file_is_filled_anew(tmp_path: Path) -> None:
    (tmp_path / "password").touch()
    assert _password(tmp_path).startswith("kaitoflow:")


def kept(**changes: Any) -> dict[str, Any]:
    process = psutil.Process()
    record = {"pid": process.pid, "started": process.create_time(), "config_digest": ""}
    return {"api_url": "http://127.0.0.1:4200/api", "process": record} | changes


def test_a_server_whose_process_lives_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(json.dumps(kept()))
    found = _find(tmp_path)
    assert found is not None
    assert (found.api_url, found.process and found.process.pid) == (kept()["api_url"], os.getpid())


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        [],
        {"process": kept()["process"]},
        kept(api_url=None),
        kept(api_url="http://127.0.0.1"),
        kept(process={"pid": 1}),
        kept(process=kept()["process"] | {"pid": "x"}),
        kept(process=kept()["process"] | {"pid": -1}),
    ],
)
def test_a_record_that_is_damaged_is_as_good_as_none(tmp_path: Path, damaged: Any) -> None:
    (tmp_path / "server.json").write_text(json.dumps(damaged))
    assert _find(tmp_path) is None


def test_a_record_that_was_cut_short_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(json.dumps(kept())[:-9])
    assert _find(tmp_path) is None


@pytest.mark.parametrize("route", ["flows/filter", "flow_runs/filter", "work_pools/filter"])
def test_who_does_not_know_the_password_is_told_nothing(prefect_home: str, route: str) -> None:
    for login_header in ({}, {"Authorization": "Basic a2FpdG9mbG93Og=="}):
        answer = httpx2.post(f"{prefect_home}/{route}", json={}, headers=login_header)
        assert answer.status_code == 401
    assert ask("POST", f"{prefect_home}/{route}", json={}).status_code == 200


def test_a_page_of_another_origin_may_read_nothing(prefect_home: str) -> None:
    allowed = "access-control-allow-origin"
    own = prefect_home.removesuffix("/api")
    for origin, expected in (("http://evil.example", None), ("null", None), (own, own)):
        asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = httpx2.options(f"{prefect_home}/flows/", headers=asking)
        answer = httpx2.get(f"{prefect_home}/health", headers={"Origin": origin})
        assert preflight.headers.get(allowed) == answer.headers.get(allowed) == expected


def test_a_name_that_was_made_to_lead_here_is_not_answered(prefect_home: str) -> None:
    for host, code in (("evil.example", 400), ("localhost:1", 200)):
        headers = {**login(), "Host": host}
        assert httpx2.get(f"{prefect_home}/health", headers=headers).status_code == code


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_form_of_another_page_changes_nothing(prefect_home: str, kind: str) -> None:
    """It cannot send the login, and without a challenge no browser adds one by itself."""
    headers = {"Content-Type": kind, "Origin": "http://evil.example"}
    answer = httpx2.post(f"{prefect_home}/flows/", content=b'{"name": "evil"}', headers=headers)
    assert answer.status_code == 401
    assert "www-authenticate" not in answer.headers


def test_it_imports_nothing_from_the_folder_where_it_was_started(prefect_home: str) -> None:
    port = prefect_home.removesuffix("/api").rpartition(":")[2]
    [server] = [p for p in psutil.Process().children(recursive=True) if port in p.cmdline()]
    assert server.cmdline()[1] == "-P"
    assert Path(server.cwd()).name == "prefect"


def test_the_password_is_on_no_command_line(prefect_home: str) -> None:
    assert prefect_home
    word = os.environ["PREFECT_API_AUTH_STRING"].partition(":")[2]
    mine = psutil.Process().children(recursive=True)
    assert not any(word in " ".join(process.cmdline()) for process in mine)


def test_the_server_s_own_client_is_answered_however_often_it_makes_its_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application = FastAPI()
    monkeypatch.setattr(server, "create_app", lambda: application)
    answer_only_to(["127.0.0.1"])
    statuses = []
    for host in ("prefect-in-memory", "127.0.0.1", "evil.example"):
        with TestClient(server.create_app(), base_url=f"http://{host}") as client:
            statuses.append(client.get("/nothing").status_code)
    assert statuses == [404, 404, 400]
