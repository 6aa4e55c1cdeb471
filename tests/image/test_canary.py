"""No password, token or signature is in anything that a pod program says or leaves behind."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.programs.dataset import DatasetConfig
from tests.cluster.registry import docker_config
from tests.image.builders import member, pull_config, zipped
from tests.image.scripted import Answer, Scripted, scripted

CANARIES = ("canary-password", "canary-sas", "canary-login", "canary-signed", "canary-token")


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as script:
        yield script


def run(program: str, config: Any, folder: Path) -> tuple[Mapping[str, Any], str]:
    """The last event, and all that the program said."""
    arguments = folder / "config" / "arguments.json"
    arguments.parent.mkdir()
    arguments.write_text(json.dumps(asdict(config), default=str))
    ended = subprocess.run(
        [sys.executable, "-m", program, str(arguments)],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"KAITOFLOW_LOG_LEVEL": "DEBUG"},
    )
    last: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return last, ended.stdout + ended.stderr


def expect_no_canary(said: str, left: Path) -> None:
    for canary in CANARIES:
        assert canary not in said
        for path in left.rglob("*"):
            assert canary not in path.name
            assert path.is_dir() or canary.encode() not in path.read_bytes()


@pytest.mark.parametrize("status", [200, 403])
def test_a_datasets_address_keeps_its_secrets(
    server: Scripted, tmp_path: Path, status: int
) -> None:
    row = b'{"prompt": "a", "completion": "b"}\n'
    server.answers["GET /a.jsonl"] = Answer(302, {"Location": "/b.jsonl?sig=canary-signed"})
    server.answers["GET /b.jsonl"] = Answer(status, body=row)
    url = f"http://user:canary-password@{server.host}/a.jsonl?sv=1&sig=canary-sas"
    data_dir = tmp_path / "data"
    config = DatasetConfig(
        urls=(url,), data_dir=data_dir, weights_dir=tmp_path, allow_local_addresses=True
    )
    last, said = run("tasks.dataset.pod", config, tmp_path)
    expected = "WeightsUnavailable" if status == 200 else "DatasetUnreachable"
    assert last["reason"] == expected
    assert any("canary-sas" in heard for heard in server.heard)
    expect_no_canary(said, data_dir)


def test_a_pulled_image_leaves_no_secret(server: Scripted, tmp_path: Path) -> None:
    layer = zipped(member("data/a", b"A"))
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    manifest = json.dumps({"layers": [{"digest": digest, "size": len(layer)}]}).encode()
    challenge = f'Bearer realm="{server.url}/token",service="x"'
    server.answers["GET /token"] = Answer(body=b'{"token": "canary-token"}')
    server.answers["GET /v2/phi/manifests/v1"] = Answer(401, {"WWW-Authenticate": challenge})
    login = tmp_path / "docker.json"
    login.write_text(docker_config(server.host, user="u", password="canary-login"))
    target = tmp_path / "target"
    config = pull_config(f"{server.host}/phi:v1", target, docker_configs=(login,), patience_s=0.0)
    last, said = run("tasks.image.pod.pull", config, tmp_path)
    assert last["reason"] == "RegistryDenied"
    assert any("Bearer canary-token" in heard for heard in server.heard)
    expect_no_canary(said, target)
    server.answers["GET /v2/phi/manifests/v1"] = Answer(body=manifest)
    away = f"http://u:canary-password@{server.host}/layer?X-Amz-Signature=canary-signed"
    server.answers[f"GET /v2/phi/blobs/{digest}"] = Answer(307, {"Location": away})
    server.answers["GET /layer"] = Answer(body=layer)
    (tmp_path / "config" / "arguments.json").unlink()
    (tmp_path / "config").rmdir()
    last, said = run("tasks.image.pod.pull", config, tmp_path)
    assert last["event"] == "result"
    expect_no_canary(said, target)
