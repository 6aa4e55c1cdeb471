"""A server that streams words at once, or does wrong what its prompt names: for tests of clients.

Run as `python stand_in.py PORT`.
"""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn(BaseHTTPRequestHandler):
    """Answers on /health, and streams chat completions; its bodies end with the connection."""

    def do_GET(self) -> None:
        self._begin(200)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self._begin(429 if prompt == "refuse" else 200)
        for event in _events(prompt, tokens=body["max_tokens"]):
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def _begin(self, status: int) -> None:
        self.send_response(status)
        if self.path != "/health":
            self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing: nobody reads it."""


def _events(prompt: str, *, tokens: int) -> Iterator[dict[str, Any]]:
    if prompt == "say nothing":
        return
    for _ in range(tokens // 2 if prompt == "stop early" else tokens):
        yield {"choices": [{"delta": {"content": "word "}}]}
    if prompt == "tell an error":
        yield {"error": {"message": "out of memory"}}
    if prompt == "count":
        yield {"choices": [], "usage": {"completion_tokens": 2 * tokens}}


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), StandIn).serve_forever()
