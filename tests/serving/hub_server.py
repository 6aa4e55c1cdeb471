"""A hub on loopback that speaks as much of the Hugging Face hub's protocol as a download needs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Files by name, and the refusal (status, error code) of the listing or of the files.

    commit: what `main` stands for. commits: older ones that are still there. lfs: digests told.
    pretends: the commit that each listing is said to be of; "" = the one that was asked for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    refuse_listing: tuple[int, str] | None = None
    refuse_files: tuple[int, str] | None = None
    commit: str = COMMIT
    commits: list[str] = field(default_factory=list)
    lfs: dict[str, str] = field(default_factory=dict)
    pretends: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)


def _is_commit(text: str) -> bool:
    return len(text) == len(COMMIT) and not text.strip("0123456789abcdef")


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append(self.path)
            is_listing = self.path.startswith("/api/models/")
            refusal = hub.refuse_listing if is_listing else hub.refuse_files
            asked_commit = self._asked_commit()
            if asked_commit not in ("", *hub.commits, hub.commit):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif refusal:
                self._send(refusal[0], b"{}", {"X-Error-Code": refusal[1]})
            elif is_listing:
                self._send(200, json.dumps(self._listing()).encode(), {})
            else:
                content = hub.files[self.path.rsplit("/", 1)[-1]]
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                self._send(200, content, {"ETag": etag, "X-Repo-Commit": hub.commit})

        do_HEAD = do_GET  # noqa: N815 - the base class's spelling

        def _asked_commit(self) -> str:
            parts = self.path.partition("?")[0].split("/")
            return next((part for part in parts if _is_commit(part)), "")

        def _listing(self) -> dict[str, object]:
            files: list[dict[str, object]] = []
            for name, data in hub.files.items():
                file: dict[str, object] = {"rfilename": name, "size": len(data)}
                if name in hub.lfs:
                    pointer = {"sha256": hub.lfs[name], "size": len(data), "pointerSize": 1}
                    file["lfs"] = pointer
                files.append(file)
            sha = hub.pretends or self._asked_commit() or hub.commit
            return {"id": "owner/model", "sha": sha, "siblings": files, "tags": []}

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep the tests' output free of requests."""

    return Handler


@contextmanager
def running_hub(hub: Hub) -> Iterator[Hub]:
    """The hub, listening until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()
