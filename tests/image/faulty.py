"""A proxy before the real registry that breaks what a test wants broken, and asks for tokens."""

import base64
import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

IDENTITY_TOKEN = "identity-token-of-tests"
_HOP_HEADERS = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Fault:
    """What happens to the next `times` requests with this method and this in their path.

    drop: the connection is closed without an answer. hang: there is none until `release`.
    """

    method: str
    path: str
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    times: int = 1
    drop: bool = False
    hang: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and self.path in path


@dataclass
class FaultyRegistry:
    """host: for image names. requests: what came, as `METHOD path`, in order."""

    host: str
    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    # user:password that the token service takes; None = no tokens are wanted.
    login: str | None = None
    token_scopes: list[list[str]] = field(default_factory=list)
    # How often the next tokens may be used; those after them are good for ever.
    token_uses: list[int] = field(default_factory=list)
    token_uses_left: int = 0
    serial: int = 0

    def count(self, method: str, path: str) -> int:
        """How many such requests came."""
        return sum(one.startswith(f"{method} ") and path in one for one in self.requests)


@contextmanager
def faulty_registry(
    upstream: str, *faults: Fault, login: str | None = None
) -> Iterator[FaultyRegistry]:
    """A proxy before the registry `upstream` (host:port), on a loopback port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    registry = FaultyRegistry(
        f"127.0.0.1:{server.server_port}", upstream, list(faults), login=login
    )
    _Handler.registries[server.server_port] = registry
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        for fault in faults:
            fault.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registries: dict[int, FaultyRegistry] = {}  # noqa: RUF012  (by port; handlers are made anew)

    @property
    def registry(self) -> FaultyRegistry:
        return self.registries[self.server.server_address[1]]  # type: ignore[index]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: `requests` remembers."""

    def _handle(self) -> None:
        self.registry.requests.append(f"{self.command} {self.path}")
        fault = next((f for f in self.registry.faults if f.fits(self.command, self.path)), None)
        if fault:
            self._break(fault)
        elif self.path.startswith("/token"):
            self._give_token()
        elif self.registry.login and not self._has_token():
            self._ask_for_token()
        else:
            self._forward()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _break(self, fault: Fault) -> None:
        fault.times -= 1
        fault.reached.set()
        if fault.hang:
            fault.release.wait(30)
        if fault.hang or fault.drop:
            self.close_connection = True
            return
        self._body()
        self._answer(fault.status, fault.headers, fault.body.encode())

    def _forward(self) -> None:
        upstream = http.client.HTTPConnection(self.registry.upstream)
        headers = {key: value for key, value in self.headers.items() if key != "Authorization"}
        upstream.request(self.command, self.path, self._body(), headers)
        answer = upstream.getresponse()
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP_HEADERS}
        self._answer(answer.status, kept, answer.read())
        upstream.close()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            if key.lower() != "content-length":
                self.send_header(key, value)
        # A HEAD tells the length of what it does not send.
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _has_token(self) -> bool:
        fits = self.headers.get("Authorization") == f"Bearer token-{self.registry.serial}"
        self.registry.token_uses_left -= fits
        return fits and self.registry.token_uses_left >= 0

    def _ask_for_token(self) -> None:
        self._body()
        realm = f'realm="http://{self.registry.host}/token",service="tests"'
        challenge = f'Bearer {realm},scope="repository:any:pull"'
        self._answer(401, {"WWW-Authenticate": challenge}, b"")

    def _give_token(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        form = parse_qs(self._body().decode())
        self.registry.token_scopes.append(query.get("scope") or form["scope"][0].split())
        wanted = base64.b64encode((self.registry.login or "").encode()).decode()
        by_password = self.headers.get("Authorization") == f"Basic {wanted}"
        if not by_password and form.get("refresh_token") != [IDENTITY_TOKEN]:
            self._answer(401, {}, b"")
            return
        self.registry.serial += 1
        uses = self.registry.token_uses
        self.registry.token_uses_left = uses.pop(0) if uses else sys.maxsize
        token = json.dumps({"access_token": f"token-{self.registry.serial}"})
        self._answer(200, {"Content-Type": "application/json"}, token.encode())
