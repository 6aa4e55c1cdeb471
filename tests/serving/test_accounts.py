"""Who may ask the server, and how much."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.datastructures import Headers

from serving.door.accounts import Accounts, Allowance
from serving.errors import ApiError
from tasks.contract.programs.serving import ServerConfig
from tests.serving.hot import KEY as ADMIN
from tests.serving.running import Running, serve

HASHED = hashlib.sha256(b"hidden").hexdigest()
LINES = f"""
# who may ask
ann open-sesame
bob sha256:{HASHED}
few 3-a-minute requests_per_minute=3
little 20-tokens tokens_per_minute=20
as-little 20-more-tokens tokens_per_minute=20
"""
ASKED = {"prompt": "the cat", "max_tokens": 8, "temperature": 0}


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def bearing(key: str) -> Headers:
    return Headers({"Authorization": f"Bearer {key}"})


def refusal(call: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as refused:
        call()
    return refused.value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "keys").write_text(LINES)
    return tmp_path / "keys"


def test_a_key_opens_as_it_is_and_by_its_digest(file: Path) -> None:
    accounts = Accounts(file)
    assert accounts.of(bearing("open-sesame")).name == "ann"
    assert accounts.of(bearing("hidden")).name == "bob"
    assert accounts.of(Headers({"X-API-Key": "hidden"})).name == "bob"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer ann"},
        {"Authorization": f"Bearer sha256:{HASHED}"},
        {"Authorization": "Basic open-sesame"},
        {"X-API-Key": ""},
    ],
)
def test_nothing_else_opens(file: Path, headers: dict[str, str]) -> None:
    error = refusal(lambda: Accounts(file).of(Headers(headers)))
    assert (error.status, error.code) == (401, "invalid_api_key")


def test_without_a_file_or_a_key_in_it_nobody_is_let_in(file: Path) -> None:
    accounts = Accounts(file)
    accounts.of(bearing("open-sesame"))
    file.write_text("# none\n")
    assert refusal(lambda: accounts.of(bearing("open-sesame"))).status == 401
    file.unlink()
    assert refusal(lambda: accounts.of(bearing("open-sesame"))).status == 401


def test_a_changed_file_counts_at_once_and_what_was_used_stays_used(file: Path) -> None:
    accounts = Accounts(file, clock=Clock())
    for _ in range(3):
        accounts.of(bearing("3-a-minute")).admit()
    # As a kubelet does: another file in its place.
    (file.parent / "new").write_text(LINES + "eve newcomer\n")
    os.replace(file.parent / "new", file)
    assert accounts.of(bearing("newcomer")).name == "eve"
    assert refusal(accounts.of(bearing("3-a-minute")).admit).status == 429


@pytest.mark.parametrize(
    "line", ["ann", "eve key requests_per_minute=0", "eve key tokens=3", "ann another"]
)
def test_a_line_that_says_something_else_opens_nothing_and_costs_the_others_nothing(
    file: Path, line: str
) -> None:
    file.write_text(f"{LINES}{line}\n")
    accounts = Accounts(file)
    assert accounts.of(bearing("open-sesame")).name == "ann"
    assert refusal(lambda: accounts.of(bearing("key"))).status == 401
    assert refusal(lambda: accounts.of(bearing("another"))).status == 401


def test_who_has_used_its_requests_is_told_when_to_come_again(file: Path) -> None:
    clock = Clock()
    account = Accounts(file, clock=clock).of(bearing("3-a-minute"))
    for _ in range(3):
        account.admit()
    error = refusal(account.admit)
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.headers == {"Retry-After": "20"}
    clock.now_s += 20
    account.admit()
    assert refusal(account.admit).status == 429


def test_what_was_used_beyond_the_budget_is_made_good_before_the_next_request() -> None:
    clock = Clock()
    budget = Allowance(60, clock)
    budget.take(180)
    assert budget.wait_s() == pytest.approx(121)
    clock.now_s += 1000
    assert budget.wait_s() == 0
    assert budget.left == 60


@pytest.fixture(scope="module")
def guarded(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys").write_text(LINES)
    (folder / "admin").write_text("open-sesame\n")
    config = ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        user_keys_file=folder / "keys",
        admin_key_file=folder / "admin",
    )
    with serve(config) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/chat"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/toy"),
        ("GET", "/nothing"),
        ("POST", "/admin"),
    ],
)
def test_whatever_answers_asks_for_a_key(guarded: Running, method: str, path: str) -> None:
    answer = guarded.client.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/health", "/metrics"])
def test_probes_and_the_page_need_none(guarded: Running, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


def test_the_admins_key_is_another_one(guarded: Running) -> None:
    assert guarded.client.get("/admin/adapters", headers=ADMIN).status_code == 200
    users = {"Authorization": "Bearer hidden"}
    assert guarded.client.get("/admin/adapters", headers=users).status_code == 401


def test_openais_client_is_let_in_by_its_key(guarded: Running) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0)

    assert client("hidden").models.list().data[0].id == "toy"
    with pytest.raises(openai.AuthenticationError):
        client("none").models.list()


@pytest.mark.parametrize(("is_streamed", "key"), [(True, "20-tokens"), (False, "20-more-tokens")])
def test_tokens_of_prompts_and_answers_are_counted_against_the_budget(
    guarded: Running, is_streamed: bool, key: str
) -> None:
    headers = {"Authorization": f"Bearer {key}"}

    def status() -> int:
        body = ASKED | {"stream": is_streamed}
        return guarded.client.post("/v1/completions", json=body, headers=headers).status_code

    statuses = [status() for _ in range(4)]
    assert (statuses[0], statuses[-1]) == (200, 429)
    free = {"Authorization": "Bearer open-sesame"}
    assert guarded.client.post("/v1/completions", json=ASKED, headers=free).status_code == 200


def test_without_a_file_of_keys_everybody_may_ask(server: Running) -> None:
    assert server.client.get("/v1/models").status_code == 200
