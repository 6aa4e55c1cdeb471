import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import RegistryDenied
from tasks.contract.image_reference import parse_reference
from tasks.remote.credentials import Credentials, describe_credentials, read_credentials

IMAGE = parse_reference("me.azurecr.io/team/phi:v1")


def auth(text: str) -> dict[str, Any]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def write(folder: Path, auths: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": auths}))
    return path


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        (auth("bob:pa:ss"), Credentials("bob", "pa:ss")),
        ({"auth": "bWU6c2VjcmU"}, Credentials("me", "secre")),
        ({"username": "bob", "password": "pass"}, Credentials("bob", "pass")),
        (auth("0000:") | {"identitytoken": "t"}, Credentials("0000", "", "t")),
        ({}, None),
    ],
)
def test_every_form_of_a_login_is_read(
    tmp_path: Path, entry: dict[str, Any], meant: Credentials | None
) -> None:
    assert read_credentials(write(tmp_path, {"me.azurecr.io": entry}), IMAGE) == meant


@pytest.mark.parametrize(
    "key", ["me.azurecr.io", "https://me.azurecr.io/v2/", "me.azurecr.io/team", "*.azurecr.io"]
)
def test_every_spelling_of_a_registry_is_found(tmp_path: Path, key: str) -> None:
    assert read_credentials(write(tmp_path, {key: auth("bob:x")}), IMAGE) == Credentials("bob", "x")


@pytest.mark.parametrize("key", ["azurecr.io", "me.azurecr.io/tea", "me.azurecr.io:443", "other"])
def test_another_registry_gets_no_password(tmp_path: Path, key: str) -> None:
    assert read_credentials(write(tmp_path, {key: auth("bob:x")}), IMAGE) is None


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_is_known_by_its_old_names(tmp_path: Path, key: str) -> None:
    config = write(tmp_path, {key: auth("bob:x")})
    assert read_credentials(config, parse_reference("bob/phi")) == Credentials("bob", "x")


def test_the_closest_entry_wins(tmp_path: Path) -> None:
    logins = {"me.azurecr.io": auth("all:x"), "me.azurecr.io/team": auth("team:x")}
    assert read_credentials(write(tmp_path, logins), IMAGE) == Credentials("team", "x")


def test_credentials_do_not_show_their_secrets() -> None:
    assert repr(Credentials("bob", "hunter2", "token")) == "Credentials(username='bob')"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", r"it is not JSON \("),
        ("[]", '"auths" is no object of objects'),
        ('{"auths": {"me.azurecr.io": 1}}', '"auths" is no object of objects'),
        ('{"auths": {"me.azurecr.io": {"auth": "%"}}}', 'an "auth" in it is not base64'),
    ],
)
def test_a_malformed_file_is_told(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RegistryDenied, match=f"{found}.*kubectl create secret docker-registry"):
        read_credentials(tmp_path / "config.json", IMAGE)


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryDenied, match=r"cannot be read.*mount a secret of type"):
        read_credentials(tmp_path / "config.json", IMAGE)


def test_a_refusal_says_which_login_was_used(tmp_path: Path) -> None:
    other = write(tmp_path, {"b.io": auth("x:y"), "a.io": auth("x:y")})
    assert "no login for me.azurecr.io (found: a.io, b.io)" in describe_credentials(other, IMAGE)
    own = write(tmp_path, {"me.azurecr.io": auth("bob:x")})
    assert describe_credentials(own, IMAGE).startswith(f'the user "bob" from {own} may not; check')
    token = write(tmp_path, {"me.azurecr.io": {"identitytoken": "t"}})
    assert describe_credentials(token, IMAGE).startswith(f"the token from {token} may not; check")
    assert describe_credentials(None, IMAGE).startswith("no credentials were given; name a secret")
