"""A Prefect server for this machine, when none is configured: found, or started and shared.

Several commands may use one server; the last of them to end stops it, unless `kaitoflow server`
holds it. Prefect itself is not imported here: starting it must not wait for that import.

Whoever reaches Prefect's API runs code as the server's owner. By default Prefect asks nobody who
they are and answers pages of any origin, so a server of ours has a password, which clients and
workers get by their environment, and answers to its own names and pages only.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated

import httpx2
import psutil
from pydantic import StringConstraints, TypeAdapter

from flows.prefect_process import HOSTS_VARIABLE
from tasks.contract.errors import PrefectUnavailable
from tasks.platform.processes import ProcessRecord, ended_unless_recorded
from tasks.platform.store import write_atomically
from tasks.settings import settings

_READY_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 10.0
_PROBE_S = 0.25
_STOP_S = 15.0
_PREFERRED_PORT = 4200
_START = ("server", "start")
_OWN_HOSTS = ("127.0.0.1", "localhost")
# Seven tries outlast a server that is away for four minutes; our loggers go to the run's log.
_CLIENT_SETTINGS = {
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
}


@dataclass(frozen=True)
class PrefectServer:
    """A server that answers: its API address and, when it is ours, its process and password."""

    api_url: str
    process: ProcessRecord | None = None
    password_file: Path | None = None

    @property
    def ui_url(self) -> str:
        """The address to open in a browser."""
        return self.api_url.removesuffix("/api")


@dataclass(frozen=True)
class _Kept:
    """What server.json says; one that says anything else is damaged, and as good as none."""

    api_url: Annotated[str, StringConstraints(pattern=r"^http://127\.0\.0\.1:\d+/api$")]
    process: ProcessRecord


_KEPT = TypeAdapter(_Kept)


@contextlib.contextmanager
def prefect_server(
    on_wait: Callable[[float], None] = lambda _s: None,
    *,
    patience_s: float | None = _ANSWER_TIMEOUT_S,
) -> Iterator[PrefectServer]:
    """A server for as long as the context lasts, with this process's Prefect pointed at it.

    Args:
        on_wait: called with the seconds waited, while a server comes up.
        patience_s: until the server that PREFECT_API_URL names answers; None = it is not asked.

    Raises: PrefectUnavailable: it ended or did not answer in time, or the address is none.
    """
    os.environ.update(_CLIENT_SETTINGS)
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        if patience_s is not None:
            _expect_answer(configured, patience_s)
        yield PrefectServer(api_url=configured)
        return
    home = settings().home_dir / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "users.lock").open("a+") as users:
        with _alone(home):
            fcntl.flock(users, fcntl.LOCK_SH)
            server = _find(home) or _start(home, _free_port(_PREFERRED_PORT))
        try:
            if not _wait_ready(server, on_wait):
                _end(server)  # it may only be slow, and its record is about to be replaced
                server = _start(home, _free_port(0))  # somebody else took the port meanwhile
                if not _wait_ready(server, on_wait):
                    raise _unavailable(server, home)
            _point_at(server, home)
            yield server
        finally:
            with _alone(home):
                _leave(_find(home) or server, users, home)


def _expect_answer(api_url: str, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    with httpx2.Client(timeout=5) as client:
        while True:
            try:
                said = _refusal(client.get(f"{api_url.rstrip('/')}/health"))
                if not said:
                    return
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                said, deadline = f"that is no address of a server ({error})", 0.0
            except httpx2.HTTPError as error:
                said = f"{type(error).__name__} {error}"
            if time.monotonic() >= deadline:
                break
            time.sleep(_PROBE_S)
    raise PrefectUnavailable(
        f"the Prefect server was asked for that PREFECT_API_URL names, {api_url}",
        f"/health did not answer within {patience_s:g} s: {said}" if deadline else said,
        "see that it runs, name it as http://HOST:4200/api, or unset the variable to have one here",
    )


def _refusal(answer: httpx2.Response) -> str:
    """What is wrong with an answer; empty where it is a server's, if only one that wants a key."""
    wants_key = answer.status_code in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN)
    return "" if answer.is_success or wants_key else f"HTTP {answer.status_code}"


def known_server() -> dict[str, str]:
    """How the server is asked that is configured, or that runs on this machine; empty = none is.

    As variables of the environment, its login among them.
    """
    if os.environ.get("PREFECT_API_URL"):
        return dict(os.environ)
    home = settings().home_dir / "prefect"
    running = _find(home)
    return _client_environment(home, running.api_url) if running else {}


def restart_if_ended(server: PrefectServer) -> None:
    """Start a server of ours anew, on its port and with its history, when its process has ended.

    The client tries again for minutes, so a run goes on as if nothing had happened.
    """
    home = settings().home_dir / "prefect"
    if server.process is None:
        return
    with _alone(home):
        if _find(home) is None:
            _start(home, int(server.ui_url.rsplit(":", 1)[1]))


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Nobody else starts or stops the server meanwhile."""
    with (home / "start.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find(home: Path) -> PrefectServer | None:
    try:
        kept = _KEPT.validate_json((home / "server.json").read_bytes())
        is_running = kept.process.process() is not None
    except (FileNotFoundError, ValueError):
        return None
    return PrefectServer(kept.api_url, kept.process, _password_file(home)) if is_running else None


def _start(home: Path, port: int) -> PrefectServer:
    with (home / "server.log").open("ab") as log:
        child = subprocess.Popen(
            # -P and a folder of its own: it imports nothing from where somebody works.
            [sys.executable, "-P", "-m", "flows.prefect_process", *_START, "--port", str(port)],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | _server_environment(home, port),
        )
    with ended_unless_recorded(child):
        started = ProcessRecord(child.pid, psutil.Process(child.pid).create_time(), "")
        server = PrefectServer(f"http://127.0.0.1:{port}/api", started, _password_file(home))
        write_atomically(
            home / "server.json",
            json.dumps({"api_url": server.api_url, "process": asdict(started)}).encode(),
        )
    return server


def _free_port(preferred: int) -> int:
    for wanted in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", wanted))
                return int(probe.getsockname()[1])
    raise PrefectUnavailable(
        "a port for the Prefect server was asked for",
        "none is free",
        "free one",
    )


def _password_file(home: Path) -> Path:
    return home / "password"


def _password(home: Path) -> str:
    """The server's `user:password`; made once, and kept so that a browser stays logged in."""
    file = _password_file(home)
    kept = file.read_text().strip() if file.exists() else ""
    if kept:
        return kept
    made = f"kaitoflow:{secrets.token_urlsafe(24)}"
    write_atomically(file, f"{made}\n".encode())
    return made


def _server_environment(home: Path, port: int) -> dict[str, str]:
    origins = ",".join(f"http://{host}:{port}" for host in _OWN_HOSTS)
    return _client_environment(home, f"http://127.0.0.1:{port}/api") | {
        "PREFECT_SERVER_API_AUTH_STRING": _password(home),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        HOSTS_VARIABLE: ",".join(_OWN_HOSTS),
    }


def _client_environment(home: Path, api_url: str) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_API_AUTH_STRING": _password(home),
    }


def _wait_ready(server: PrefectServer, on_wait: Callable[[float], None]) -> bool:
    """Whether the server answers in time; False as soon as its process has ended."""
    started = time.monotonic()
    with httpx2.Client(trust_env=False, timeout=5) as client:
        while (waited := time.monotonic() - started) < _READY_TIMEOUT_S:
            if server.process and not server.process.process():
                return False
            if _answers(client, server) and _is_listening(server):
                return True
            on_wait(waited)
            time.sleep(_PROBE_S)
    return False


def _unavailable(server: PrefectServer, home: Path) -> PrefectUnavailable:
    return PrefectUnavailable(
        f"a Prefect server was asked for at {server.api_url}",
        f"it ended or did not answer within {_READY_TIMEOUT_S:.0f} s",
        f"see {home / 'server.log'}, or set PREFECT_API_URL to yours",
    )


def _is_listening(server: PrefectServer) -> bool:
    """Whether it is our server that answers, not another one that was first on the port."""
    process = server.process.process() if server.process else None
    if process is None:
        return server.process is None
    port = int(server.ui_url.rsplit(":", 1)[1])
    return any(
        c.status == psutil.CONN_LISTEN and c.laddr.port == port
        for c in process.net_connections(kind="tcp")
    )


def _answers(client: httpx2.Client, server: PrefectServer) -> bool:
    try:
        return client.get(f"{server.api_url}/health").status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def _point_at(server: PrefectServer, home: Path) -> None:
    """Settings of the Prefect client in this process; read when Prefect is first imported."""
    os.environ.update(_client_environment(home, server.api_url))


def _leave(server: PrefectServer, users: IO[str], home: Path) -> None:
    """Stop the server if nobody else uses it: an exclusive lock can be had only by the last."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        os.environ.pop(name, None)
    fcntl.flock(users, fcntl.LOCK_UN)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    _end(server)
    (home / "server.json").unlink(missing_ok=True)


def _end(server: PrefectServer) -> None:
    process = server.process.process() if server.process else None
    if process is None:
        return
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(Exception):
        process.wait(_STOP_S)
    if process.is_running():
        process.kill()
