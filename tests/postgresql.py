"""A PostgreSQL of one's own: Debian's programs, another folder and port, gone with its context.

The database's superuser is made for the occasion, with a password that nobody else has.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.ports import free_port
from tests.cluster.program import Program

USER, DATABASE = "prefect", "postgres"
_PROGRAMS = Path("/usr/lib/postgresql")
_READY_WITHIN_S = 60.0
# Debian's package would make a cluster and start it; ours is made below.
_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")


@dataclass(frozen=True)
class PostgreSql:
    """A server on loopback that answers."""

    program: Program
    port: int
    password: str = field(repr=False)

    @property
    def prefect_settings(self) -> dict[str, str]:
        """What Prefect's server has to know, in the variables that the chart gives it."""
        return {
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self.port),
            "PREFECT_SERVER_DATABASE_NAME": DATABASE,
            "PREFECT_SERVER_DATABASE_USER": USER,
            "PREFECT_SERVER_DATABASE_PASSWORD": self.password,
        }


@contextmanager
def running_postgresql() -> Iterator[PostgreSql]:
    """A server with its default settings, for as long as the context lasts.

    Raises: RuntimeError: its programs are not there and cannot be installed; says what to do.
    """
    programs = _installed()
    port, password = free_port(), secrets.token_urlsafe()
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        as_user = _give_away(folder)
        login = [f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        make = [*as_user, str(programs / "initdb"), f"--pgdata={folder / 'data'}", *login]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        listening = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        server = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
        program = Program("postgresql", [*as_user, *server, *listening], folder / "log")
        is_ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        try:
            program.start()
            program.wait_until(
                lambda: subprocess.run(is_ready, check=False).returncode == 0,
                limit_s=_READY_WITHIN_S,
            )
            yield PostgreSql(program, port, password)
        finally:
            program.stop()


def _give_away(folder: Path) -> list[str]:
    """The start of a command that runs as the folder's new owner: root may not run PostgreSQL."""
    if os.geteuid() != 0:
        return []
    owner = pwd.getpwnam("postgres")
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    user = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    # A change of user undoes that it dies with its parent (see Program): said once more.
    return ["setpriv", *user, "--pdeathsig=KILL", "--"]


def _installed() -> Path:
    """The folder of the newest release's programs, installed when they are missing."""
    if not (found := _found()):
        _install()
        found = _found()
    return found[-1]


def _found() -> list[Path]:
    releases = sorted(_PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    return [path for path in releases if (path / "initdb").exists()]


def _install() -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(
            f"PostgreSQL is needed; {_PROGRAMS} has none, and this is not root on Debian; "
            "install the package postgresql"
        )
    _NO_CLUSTER.parent.mkdir(exist_ok=True)
    if not _NO_CLUSTER.exists():
        _NO_CLUSTER.write_text("create_main_cluster = false\n")
    kept = ["--option", "Dpkg::Options::=--force-confold"]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *kept]):
        package = ["postgresql"] if command[0] == "install" else []
        subprocess.run(
            ["apt-get", "-qq", *command, *package],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
