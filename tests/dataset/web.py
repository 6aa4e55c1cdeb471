"""A web server on loopback that misbehaves as told, and dataset files to serve or to read."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tasks.contract.programs.dataset import DatasetConfig
from tasks.dataset.pod.fetch import Patience
from tasks.dataset.pod.prepare import Report, prepare_dataset

HURRIED = Patience(attempts=3, absent_attempts=2, first_wait_s=0.01, longest_wait_s=0.05)


class Handler(BaseHTTPRequestHandler):
    """Asks the server's routes what to say."""

    server: "_Server"

    def do_GET(self) -> None:
        self.server.web.asked.append(dict(self.headers))
        path = self.path.partition("?")[0]
        try:
            self.server.web.routes[path](self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_POST = do_GET  # noqa: N815  as the base class names it

    def body(self) -> bytes:
        """What was sent."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output clean."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer; header names with _ for -; Content-Length unless given or ""."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Content-Length", str(len(body)))
        self.send_response(status)
        for name, value in named.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def cut(self, body: bytes, *, at: int, **headers: str) -> None:
        """Announce all of the body and send its beginning."""
        self.answer(200, body[:at], Content_Length=str(len(body)), **headers)

    def rest(self, body: bytes, **headers: str) -> None:
        """Honour a Range request, or send everything."""
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(200, body, **headers)
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self.answer(206, body[start:], Content_Range=span, **headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    web: "Web"


@dataclass
class Web:
    """The server's address, its routes, and the headers of every request so far."""

    address: str
    routes: dict[str, Callable[[Handler], object]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)

    def serve(self, path: str, *answers: Callable[[Handler], object]) -> str:
        """The URL that gives these answers in turn, the last one from then on."""
        left = list(answers)

        def answer(handler: Handler) -> object:
            return (left.pop(0) if len(left) > 1 else left[0])(handler)

        self.routes[path] = answer
        return self.address + path

    def serve_bytes(self, path: str, body: bytes, **headers: str) -> str:
        """The URL of these bytes."""
        return self.serve(path, lambda handler: handler.answer(200, body, **headers))


@contextmanager
def running_web() -> Iterator[Web]:
    with _Server(("127.0.0.1", 0), Handler) as server:
        server.web = Web(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.web
        finally:
            server.shutdown()
            thread.join()


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def chat(question: str = "hi", answer: str = "hello") -> dict[str, list[dict[str, str]]]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


@dataclass(frozen=True)
class Bench:
    """Runs the whole step in a folder of its own, with a toy tokenizer."""

    folder: Path
    weights_dir: Path

    def config(self, *urls: str, **changes: object) -> DatasetConfig:
        options: dict[str, object] = {
            "data_dir": self.folder / "data",
            "weights_dir": self.weights_dir,
            "allow_files": True,
            "allow_local_addresses": True,
        }
        return DatasetConfig(urls=urls, **(options | changes))  # type: ignore[arg-type]

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return path.as_uri()

    def prepare(self, name: str, content: bytes, **changes: object) -> Report:
        return prepare_dataset(self.config(self.file(name, content), **changes))

    def rows(self) -> list[object]:
        lines = (self.folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
