"""Connections that nobody can hold for nothing: a bound on their number, and two deadlines.

uvicorn waits without end for the first request of a connection and for a client that takes nothing
of its answer, and accepts as many as come until the process has no file descriptor left, for the
model's files and for /health neither.
"""

import asyncio
import json
import resource
import socket
from http import HTTPStatus

from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.errors import ApiError

_MOST = 2048
# asyncio accepts so many, uvicorn's 2,048 by default, before it lets one of them be refused; and at
# the last descriptor it writes as many traces into the log: 400,000 lines within ten seconds.
ACCEPTED_AT_ONCE = 16
# Of an answer, in the kernel: where it holds as much as it likes, some ten thousand tokens are
# written for who has long stopped reading.
_SENT_AHEAD_BYTES = 64 * 1024
_OTHER_FILES = 128  # descriptors that are not a client's: libraries, weights, devices, logs


def bounded(*, write_s: float) -> type["BoundedConnection"]:
    """Connections as many as this process may have; raises its own limit to what it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = _MOST if soft == resource.RLIM_INFINITY else min(_MOST, soft - _OTHER_FILES)

    class Bounded(BoundedConnection):
        most = max(1, room)
        write_timeout_s = write_s

    return Bounded


class BoundedConnection(H11Protocol):
    """One client's connection.

    most: that may be open at once; one more is told so and closed. head_timeout_s: from the
    beginning of a wait for a request until its headers are there. write_timeout_s: from when the
    client takes no more of its answer until it does; then the answer is given up.
    """

    most = _MOST
    head_timeout_s = 20.0
    write_timeout_s = 60.0
    _deadline: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.most:
            self._is_refused = True
            transport.write(_too_many(self.most))
            transport.close()
            return
        if found := transport.get_extra_info("socket"):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_AHEAD_BYTES)
        super().connection_made(transport)
        self._keep_to_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._hurry_no_more()
        if not self._is_refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._keep_to_deadline()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._hurry_no_more()

    def _hurry_no_more(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _keep_to_deadline(self) -> None:
        """Let the time run while headers are awaited, whatever drips in meanwhile."""
        if self._is_answering():
            self._disarm()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _is_answering(self) -> bool:
        # Before the first request there is no cycle, whatever uvicorn's type says.
        return not getattr(self.cycle, "response_complete", True)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_answering():
            self.transport.close()


def _too_many(most: int) -> bytes:
    """A whole response, since no request is read."""
    error = ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{most} connections are open, which is as many as may; close some or try again shortly",
        code="too_many_connections",
    )
    body = json.dumps(error.body()).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
