"""The real distribution registry on a loopback port, for as long as a test wants it."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.cluster.build import tool
from tests.cluster.ports import free_port
from tests.cluster.program import Program

USER = "kaito"
PASSWORD = "opensesame"
# bcrypt of PASSWORD at its lowest cost; the registry takes no other kind of hash.
_HTPASSWD = f"{USER}:$2y$05$kaitoflowkaitoflowkaiO8RzmrVYa/4GXpho5.621NMI6aEdqkFu\n"
_START_LIMIT_S = 20.0


@dataclass(frozen=True)
class RunningRegistry:
    """A registry that answers; `host` is what image names begin with."""

    host: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextmanager
def running_registry(folder: Path, *, auth: bool = False) -> Iterator[RunningRegistry]:
    """A registry that keeps its images in `folder`; with `auth` it wants USER and PASSWORD."""
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = folder / "registry.json"  # JSON is YAML
    config.write_text(json.dumps(_config(folder, host, auth=auth)))
    registry = RunningRegistry(host, folder / "registry.log")
    quiet = "OTEL_TRACES_EXPORTER=none"
    program = Program("registry", ["env", quiet, tool("registry"), "serve", config], registry.log)
    program.start()
    try:
        program.wait_until(lambda: _answers(registry), limit_s=_START_LIMIT_S)
        yield registry
    finally:
        program.stop()


def docker_config(host: str, *, user: str = USER, password: str = PASSWORD) -> str:
    """The text of a docker config.json with a login for `host`."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    return json.dumps({"auths": {host: {"auth": login}}})


def _config(folder: Path, host: str, *, auth: bool) -> dict[str, object]:
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "images")},
            "delete": {"enabled": True},
        },
        "http": {"addr": host},
    }
    if auth:
        passwords = folder / "htpasswd"
        passwords.write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
    return config


def _answers(registry: RunningRegistry) -> bool:
    with httpx2.Client(trust_env=False) as client:
        try:
            client.get(f"{registry.url}/v2/")
        except httpx2.TransportError:
            return False
    return True
