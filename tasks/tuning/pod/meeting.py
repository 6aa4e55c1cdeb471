"""Where the pods of one Job, a node each, find each other, and hear how the others fare.

The first pod listens; each other one takes its seat there, is told when all have theirs, and says
how its processes have ended. A round lasts as long as its connections: one that ends has lost its
pod, whose system says so, or its node, of which the kernel's own probes tell.
"""

import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tasks.contract.errors import PodsNotTogether
from tasks.contract.podlog import Stopped, emit
from tasks.contract.programs.tuning import FIRST_HOST, FIRST_PORT, JOB, POD_NUMBER

# A node that is gone ends its connections after so long without a sign of life.
_SILENT_S, _PROBE_EVERY_S, _PROBES = 10, 5, 4
_LOOK_S = 0.1
_JOIN_AGAIN_S = 1.0
_CONNECT_S = 5.0
# Whoever connects is no pod of the Job until it has said so, at once and in few words.
_INTRODUCTION_S, _MOST_STRANGERS = 10.0, 64
_LONGEST_WORDS = 2**20

Words = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes of a run, and which one this is.

    number: from 0; the first one speaks for all. host, port: at which the first one listens.
    job: what only the pods of this Job know. patience_s: how long the first one waits for others.
    """

    number: int
    count: int
    host: str
    port: int
    job: str
    patience_s: float

    @classmethod
    def of_environment(cls, count: int, *, patience_s: float) -> "Nodes":
        """Where this pod stands, as its platform tells it."""
        return cls(
            number=int(os.environ[POD_NUMBER]),
            count=count,
            host=os.environ[FIRST_HOST],
            port=int(os.environ[FIRST_PORT]),
            job=os.environ.get(JOB, ""),
            patience_s=patience_s,
        )


class Line:
    """A connection between two pods, which carries JSON, a line each way at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Talk over a connection; neither side ever waits for the other's words."""
        self.began_s = time.monotonic()
        self.is_over = False
        self._socket, self._unread = connection, b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, _SILENT_S),
            (socket.TCP_KEEPINTVL, _PROBE_EVERY_S),
            (socket.TCP_KEEPCNT, _PROBES),
            (socket.TCP_USER_TIMEOUT, 1000 * (_SILENT_S + _PROBES * _PROBE_EVERY_S)),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def say(self, words: Mapping[str, Any]) -> None:
        """Send words; a line that is over by then is found so when it is read."""
        with suppress(OSError):
            self._socket.settimeout(_CONNECT_S)
            self._socket.sendall(json.dumps(words).encode() + b"\n")

    def heard(self) -> list[Words]:
        """What has come since the last look."""
        while not self.is_over and select.select([self._socket], [], [], 0)[0]:
            try:
                read = self._socket.recv(65536)
            except OSError:
                read = b""
            self._unread += read
            self.is_over = not read or len(self._unread) > _LONGEST_WORDS
        *lines, self._unread = self._unread.split(b"\n")
        return [words for words in map(_parsed, lines) if words is not None]

    def close(self) -> None:
        """Hang up."""
        self.is_over = True
        self._socket.close()


def _parsed(line: bytes) -> Words | None:
    try:
        words = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, dict) else None


@dataclass
class Seat:
    """Another pod, as the first one sees it; told: how its processes have ended, once they have."""

    line: Line
    told: Words | None = None

    def look(self) -> None:
        """Take in what it has said."""
        for words in self.line.heard():
            self.told = words

    @property
    def is_lost(self) -> bool:
        """Whether it is gone without a word on how it ended."""
        return self.line.is_over and self.told is None


class Meeting:
    """The first pod's door, for as long as the run lasts."""

    def __init__(self, nodes: Nodes) -> None:
        """Listen at every address, since which of them others come by is the network's affair."""
        self.nodes = nodes
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self._door = socket.create_server(
            ("", nodes.port), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
        self._strangers: list[Line] = []
        self.seats: dict[int, Seat] = {}

    def __enter__(self) -> Self:
        """Nothing more."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the round, and the meeting."""
        del kind, error, trace
        self.end_round()
        for line in self._strangers:
            line.close()
        self._door.close()

    def gather(self, *, is_asked_to_stop: Callable[[], bool]) -> None:
        """Return once every other pod has its seat.

        Raises: PodsNotTogether: not all came in time. Stopped.
        """
        began_s, told = time.monotonic(), ""
        while missing := self._missing():
            if is_asked_to_stop():
                raise Stopped
            if time.monotonic() - began_s > self.nodes.patience_s:
                raise self._not_together(missing)
            waits_for = f"waits for {_pods(missing)} of {self.nodes.count}"
            if waits_for != told:
                told = waits_for
                emit("progress", {"phase": waits_for})
            self._let_in()
            time.sleep(_LOOK_S)

    def end_round(self) -> None:
        """Have every other pod end its processes and take its seat anew."""
        for seat in self.seats.values():
            seat.line.close()
        self.seats.clear()

    def _missing(self) -> list[int]:
        for seat in self.seats.values():
            seat.look()
        self.seats = {n: seat for n, seat in self.seats.items() if not seat.line.is_over}
        return [n for n in range(1, self.nodes.count) if n not in self.seats]

    def _let_in(self) -> None:
        while select.select([self._door], [], [], 0)[0]:
            with suppress(OSError):
                self._strangers.append(Line(self._door.accept()[0]))
        staying = []
        for line in self._strangers[-_MOST_STRANGERS:]:
            introduced = next(iter(line.heard()), None)
            number = self._number_of(introduced) if introduced else None
            is_late = time.monotonic() - line.began_s > _INTRODUCTION_S
            if number is not None:
                if earlier := self.seats.get(number):
                    earlier.line.close()
                self.seats[number] = Seat(line)
            elif introduced or is_late or line.is_over:
                line.close()
            else:
                staying.append(line)
        for line in self._strangers[:-_MOST_STRANGERS]:
            line.close()
        self._strangers = staying

    def _number_of(self, introduced: Words) -> int | None:
        """Which pod of the Job it is; None = none that is expected."""
        number = introduced.get("pod")
        is_ours = introduced.get("job") == self.nodes.job
        is_expected = isinstance(number, int) and 0 < number < self.nodes.count
        return number if is_ours and is_expected else None

    def _not_together(self, missing: Sequence[int]) -> PodsNotTogether:
        nodes = self.nodes
        return PodsNotTogether(
            f"{nodes.count} pods were to train together",
            f"{_pods(missing)} did not come within {nodes.patience_s:.0f} s",
            "see what they wait for (kubectl describe pod), or lower resource.count; with a queue "
            "of Kueue (label kueue.x-k8s.io/queue-name) no pod starts before all can",
        )


def _pods(numbers: Sequence[int]) -> str:
    return f"pod{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def take_seat(nodes: Nodes, *, is_asked_to_stop: Callable[[], bool]) -> Line:
    """The connection to the first pod, as soon as that is there.

    Raises: Stopped.
    """
    while True:
        if is_asked_to_stop():
            raise Stopped
        with suppress(OSError):  # no name yet, or nobody at the door
            line = Line(socket.create_connection((nodes.host, nodes.port), timeout=_CONNECT_S))
            line.say({"pod": nodes.number, "job": nodes.job})
            return line
        time.sleep(_JOIN_AGAIN_S)


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port
