"""Loopback servers that answer what a test tells them, and remember what they were asked."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """One answer; `slowly`: seconds before each byte of the body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    slowly_s: float = 0.0


@dataclass
class Scripted:
    """answers: `METHOD /path` -> what comes; everything else is a 404. heard: all that arrived."""

    host: str
    answers: dict[str, Answer] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    is_closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextmanager
def scripted(name: str = "127.0.0.1") -> Iterator[Scripted]:
    """A server on a loopback address and a port of its own."""
    server = ThreadingHTTPServer((name, 0), _Handler)
    server.daemon_threads = True
    script = Scripted(f"{name}:{server.server_port}")
    _Handler.scripts[server.server_port] = script
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield script
    finally:
        script.is_closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripts: dict[int, Scripted] = {}  # noqa: RUF012  (by port; handlers are made anew)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: `heard` remembers."""

    def _handle(self) -> None:
        script = self.scripts[self.server.server_address[1]]  # type: ignore[index]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script.heard.append(f"{self.command} {self.path}\n{self.headers}\n{body!r}")
        script.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        answer = script.answers.get(script.asked[-1], Answer(404))
        self.send_response_only(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self._send(answer, script)

    def _send(self, answer: Answer, script: Scripted) -> None:
        if not answer.slowly_s:
            self.wfile.write(answer.body)
            return
        for byte in answer.body:
            if script.is_closing.wait(answer.slowly_s):
                return
            self.wfile.write(bytes([byte]))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815
