"""Prefect's database as the chart's README says: restarts lose nothing, a backup is restored."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.chart.rendering import CHART, VARIANTS, containers, environment, render
from tests.cluster.ports import free_port
from tests.cluster.program import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

README = (CHART / "README.md").read_text()
PASSWORD, LIMIT_S = "secret", 120.0
# It refuses to be root, as whom the tests may run.
_NOBODY = 65534


def programs() -> str:
    """The folder of a PostgreSQL server's programs."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not found:
        pytest.skip("needs the programs of a PostgreSQL server")
    return str(found[0])


@dataclass(frozen=True)
class Database:
    """A PostgreSQL server with an empty database, and what its container's variables would be."""

    variables: dict[str, str]

    @property
    def url(self) -> str:
        port = self.variables["PGPORT"]
        return f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{port}/prefect"

    def run(self, program: str, stdin: bytes = b"") -> bytes:
        """What the command that the README gives for this program prints in the container."""
        [command] = re.findall(rf"-- sh -c '([^']*\b{program}\b[^']*)'", README)
        shell = ["sh", "-c", command]
        said = subprocess.run(
            shell, env=self.variables, input=stdin, capture_output=True, check=False
        )
        assert said.returncode == 0, said.stderr.decode()
        return said.stdout


@pytest.fixture
def database() -> Iterator[Database]:
    folder = programs()
    with tempfile.TemporaryDirectory() as home:
        data, port = Path(home, "data"), str(free_port())
        Path(home, "password").write_text(PASSWORD)
        who: list[str] = []
        if os.geteuid() == 0:
            who = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
            os.chown(home, _NOBODY, _NOBODY)
            os.chown(f"{home}/password", _NOBODY, _NOBODY)
        login = ("--username=prefect", f"--pwfile={home}/password", "--auth=scram-sha-256")
        make = [*who, f"{folder}/initdb", f"--pgdata={data}", "--encoding=UTF8", *login]
        subprocess.run(make, check=True, capture_output=True)
        alone = [*who, f"{folder}/postgres", "--single", "-D", str(data), "postgres"]
        asked = "CREATE DATABASE prefect\n"
        subprocess.run(alone, input=asked, text=True, check=True, capture_output=True)
        listen = ("-D", str(data), "-p", port, "-k", home, "-h", "127.0.0.1")
        server = Program("postgres", [*who, f"{folder}/postgres", *listen], Path(home, "log"))
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        made = Database({"PATH": path, "PGPORT": port, "POSTGRES_PASSWORD": PASSWORD})
        ready = [f"{folder}/pg_isready", "--host=127.0.0.1", f"--port={port}"]
        try:
            server.start()
            server.wait_until(
                lambda: subprocess.run(ready, check=False, capture_output=True).returncode == 0,
                limit_s=LIMIT_S,
            )
            yield made
        finally:
            server.stop()


@contextmanager
def prefect(database: Database, folder: Path) -> Iterator[tuple[httpx2.Client, Program]]:
    """Prefect's server as the chart starts it before a database from outside."""
    values = {**VARIANTS["outside-postgresql"], "prefect": {"auth": {"enabled": False}}}
    objects, port = render(values), free_port()
    given = environment(objects, "prefect")
    home = str(folder)
    given = {name: value.replace("/tmp", home) for name, value in given.items()}
    given |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_API_DATABASE_CONNECTION_URL": database.url,
    }
    command = dict(containers(objects))["kaitoflow-prefect"]["command"]
    pairs = [f"{name}={value}" for name, value in given.items()]
    whole = ["env", "-i", *pairs, *command, "--port", str(port)]
    program = Program("prefect", whole, folder / "prefect.log")
    api = httpx2.Client(base_url=f"http://127.0.0.1:{port}/api", trust_env=False, timeout=10)
    with api:
        try:
            program.start()
            program.wait_until(lambda: answers(api), limit_s=LIMIT_S)
            yield api, program
        finally:
            program.stop()


def answers(api: httpx2.Client) -> bool:
    try:
        return api.get("/health").is_success
    except httpx2.HTTPError:
        return False


def kept(api: httpx2.Client) -> int:
    """The status of an answer about what was kept."""
    return api.get("/variables/name/kept").status_code


def test_a_killed_server_loses_nothing_and_a_backup_brings_back_what_was_lost(
    database: Database, tmp_path: Path
) -> None:
    with prefect(database, tmp_path) as (api, program):
        api.post("/variables/", json={"name": "kept", "value": 1}).raise_for_status()
        assert program.pid
        os.killpg(program.pid, 9)
    with prefect(database, tmp_path) as (api, _):
        assert kept(api) == 200
        backup = database.run("pg_dump")
        api.delete("/variables/name/kept").raise_for_status()
        assert kept(api) == 404
    database.run("pg_restore", stdin=backup)
    with prefect(database, tmp_path) as (api, _):
        assert kept(api) == 200
