"""One run in several processes, a GPU each, on one node or more: started and ended together.

Their words become those of one program: progress and result are the first one's, a verdict is the
one of the process that had a reason of its own. When one dies without a word, a node is lost, or
one asks for smaller passes, all begin anew from the last checkpoint: what they learn does not
depend on it.
"""

import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from tasks.contract.errors import ContainerKilled, InternalError
from tasks.contract.podlog import Event, Stopped, emit, verdict_error
from tasks.tuning.pod.meeting import Line, Meeting, Nodes, Seat, Words, free_port, take_seat
from tasks.tuning.pod.processes import PASSES, Place, Rank, start

log = logging.getLogger(__name__)

# What a process says last that needs smaller passes than were planned.
SMALLER = "smaller"
# As often as a Job starts a new pod.
_BEGINNINGS = 3
_LOOK_S = 0.05
# When one has ended badly the others soon do, and say less of the cause; in this time they all say
# what they know. Asked to stop, they save first; then they end within this time of each other.
_LAST_WORDS_S, _FAREWELL_S = 2.0, 300.0
# And in this time another pod passes on what its processes have said.
_REPORT_S = 5.0
_STOPPED = 128 + signal.SIGTERM


def train_together(
    command: Sequence[str], *, processes: int, nodes: Nodes | None = None
) -> Mapping[str, Any]:
    """What the first process answers; on any node but the first it waits to be ended.

    Args: command: that each process is; what it is told beside stands in its environment.
    processes: of each node. nodes: None = there is this one.
    Raises: what a process ended with; ContainerKilled: one has died too often. PodsNotTogether.
    Stopped.
    """
    stop = _Stop()
    before = signal.signal(signal.SIGTERM, stop.ask)
    try:
        if nodes and nodes.number:
            _go_along(command, processes, nodes, stop)
        return _lead(command, processes, nodes, stop)
    finally:
        signal.signal(signal.SIGTERM, before)


def _lead(
    command: Sequence[str], processes: int, nodes: Nodes | None, stop: "_Stop"
) -> Mapping[str, Any]:
    with ExitStack() as stack:
        meeting = stack.enter_context(Meeting(nodes)) if nodes else None
        passes, beginnings = "", 0
        while True:
            ended = _round(command, processes, meeting, stop, passes=passes)
            if ended.result is not None:
                return ended.result
            if stop.is_asked:
                raise Stopped
            if ended.smaller is not None:
                passes = json.dumps(ended.smaller)
                continue
            ended.raise_for_verdict()
            # How often nodes go is for their owner to say.
            beginnings += not ended.gone
            if beginnings == _BEGINNINGS:
                count = processes * (nodes.count if nodes else 1)
                raise ContainerKilled(
                    f"{count} processes were to train together",
                    f"{ended.deaths}, {beginnings} times",
                    "look at the log, and at the memory of GPUs and node; run again to resume",
                )
            log.warning("%s: all begin anew from the last checkpoint", ended.deaths)


def _round(
    command: Sequence[str],
    processes: int,
    meeting: Meeting | None,
    stop: "_Stop",
    *,
    passes: str,
) -> "_Ended":
    """One beginning of all processes, up to their end."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(of=processes, find=f"file://{folder}/rendezvous")
        seats: dict[int, Seat] = {}
        if meeting:
            meeting.gather(is_asked_to_stop=lambda: stop.is_asked)
            seats = dict(meeting.seats)
            place = Place(
                of=processes * (1 + len(seats)), host=meeting.nodes.host, port=free_port()
            )
            for number, seat in seats.items():
                seat.line.say(asdict(place) | {"first": number * processes, "passes": passes})
        ranks = start(command, processes, place, passes=passes)
        stop.reach(ranks)
        _wait(
            ranks,
            is_torn=lambda: any(_is_torn(seat) for seat in seats.values()),
            # One that is asked to end has all of them save first.
            is_asked_to_stop=lambda: (
                stop.is_asked or any(_was_stopped(seat) for seat in seats.values())
            ),
        )
        ended = _Ended(ranks, seats)
        if meeting and ended.result is None:
            _hear_out(seats.values())
        if meeting:
            meeting.end_round()
        return ended


def _is_torn(seat: Seat) -> bool:
    """Whether another pod ends the round; one whose processes have ended well does not."""
    seat.look()
    return seat.is_lost or (seat.told is not None and not seat.told["is_done"])


def _hear_out(seats: Collection[Seat]) -> None:
    deadline_s = time.monotonic() + _REPORT_S
    while time.monotonic() < deadline_s:
        for seat in seats:
            seat.look()
        if all(seat.line.is_over or seat.told for seat in seats):
            return
        time.sleep(_LOOK_S)


def _go_along(command: Sequence[str], processes: int, nodes: Nodes, stop: "_Stop") -> NoReturn:
    """Train as often as the first pod begins, until this one is ended: with the Job, or alone."""
    while True:
        line = take_seat(nodes, is_asked_to_stop=lambda: stop.is_asked)
        try:
            if (begun := _until_begun(line, stop)) is None:
                continue
            passes = begun.pop("passes")
            ranks = start(command, processes, Place(**begun), passes=passes)
            stop.reach(ranks)
            _wait(
                ranks,
                is_torn=partial(_is_over, line),
                is_asked_to_stop=lambda: stop.is_asked,
            )
            line.say(_report(ranks, was_stopped=stop.is_asked))
            while not (stop.is_asked or _is_over(line)):
                time.sleep(_LOOK_S)
            if stop.is_asked:
                raise Stopped
        finally:
            line.close()


def _until_begun(line: Line, stop: "_Stop") -> Words | None:
    """How the first pod begins; None = it is gone."""
    while not stop.is_asked:
        if heard := line.heard():
            return heard[0]
        if line.is_over:
            return None
        time.sleep(_LOOK_S)
    raise Stopped


def _is_over(line: Line) -> bool:
    line.heard()
    return line.is_over


def _report(ranks: Sequence[Rank], *, was_stopped: bool) -> Words:
    """What the first pod is told of the processes here."""
    ended = _Ended(ranks, {})
    return {
        "last": [rank.last for rank in ranks if rank.last],
        "deaths": ended.deaths_here,
        "has_died": ended.has_died_here,
        "was_stopped": was_stopped,
        "is_done": all(rank.code == 0 for rank in ranks),
    }


@dataclass(frozen=True)
class Passes:
    """The largest that fit: rows of each, and whether activations have to be recomputed."""

    rows: int
    recompute: bool


def ask_for_passes(rows: int, *, recompute: bool) -> NoReturn:
    """End this process such that all begin anew with these passes."""
    emit(SMALLER, asdict(Passes(rows, recompute)))
    raise SystemExit(1)


def passes_asked_for() -> Passes | None:
    """What a process before this one has found to fit; None = nobody has asked."""
    asked = os.environ.get(PASSES)
    return Passes(**json.loads(asked)) if asked else None


@dataclass
class _Stop:
    """That the run is asked to end; the processes are asked in turn."""

    is_asked: bool = False
    ranks: Sequence[Rank] = field(default_factory=tuple)

    def ask(self, *_: int | FrameType | None) -> None:
        """Keep and pass on what the signal asks."""
        self.is_asked = True
        for rank in self.ranks:
            if rank.code is None:
                rank.process.terminate()

    def reach(self, ranks: Sequence[Rank]) -> None:
        """Ask these from now on, and at once where the signal came before them."""
        self.ranks = ranks
        if self.is_asked:
            self.ask()


@dataclass(frozen=True)
class _Ended:
    """All processes, ended: those of this pod, and what other pods have told of theirs."""

    ranks: Sequence[Rank]
    seats: Mapping[int, Seat]

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What the first process answered; None = it has not."""
        last = self._words_of("result")
        if not last or self.ranks[0].code != 0:
            return None
        return {name: value for name, value in last[0].items() if name != "event"}

    @property
    def smaller(self) -> Mapping[str, Any] | None:
        """The smallest passes that one asks for; None = none does."""
        asked = self._words_of(SMALLER)
        if not asked:
            return None
        least = min(asked, key=lambda one: (one["rows"], not one["recompute"]))
        return {name: value for name, value in least.items() if name != "event"}

    @property
    def gone(self) -> list[str]:
        """Which pods went, to be read."""
        seats = self.seats.items()
        stopped = [f"pod {number} was asked to end" for number, seat in seats if _was_stopped(seat)]
        return stopped + [f"pod {number} was lost" for number, seat in seats if seat.is_lost]

    @property
    def deaths(self) -> str:
        """Which processes ended without a reason of their own, and which pods went, to be read."""
        told = [str(seat.told["deaths"]) for seat in self.seats.values() if seat.told]
        found = [each for each in (*self.gone, self.deaths_here, *told) if each]
        return ", ".join(found) or "a process was lost"

    @property
    def deaths_here(self) -> str:
        """The same of this pod; "" = each has said why."""
        silent = [one for one in self.ranks if not one.was_killed and one.last is None and one.code]
        return ", ".join(
            f"process {one.number} ended with exit code {one.code}"
            for one in silent
            if one.code != _STOPPED
        )

    @property
    def has_died_here(self) -> bool:
        """Whether a process of this pod was killed by somebody else."""
        return any((one.code or 0) < 0 and not one.was_killed for one in self.ranks)

    def raise_for_verdict(self) -> None:
        """Raise what a process ended with of itself; nothing if all ended for one that died."""
        verdicts = [verdict_error(word) for word in self._words_of("verdict")]
        for error in verdicts:
            if not isinstance(error, InternalError):
                raise error
        told = [seat.told for seat in self.seats.values() if seat.told]
        has_died = self.has_died_here or any(each["has_died"] for each in told)
        if verdicts and not (has_died or self.gone):
            raise verdicts[0]

    def _words_of(self, event: str) -> list[Event]:
        here = [one.last for one in self.ranks if one.last]
        told = [word for seat in self.seats.values() if seat.told for word in seat.told["last"]]
        return [word for word in (*here, *told) if word["event"] == event]


def _was_stopped(seat: Seat) -> bool:
    return bool(seat.told and seat.told["was_stopped"])


def _wait(
    ranks: Sequence[Rank],
    *,
    is_torn: Callable[[], bool],
    is_asked_to_stop: Callable[[], bool],
) -> None:
    """Until the first process has ended well, or any badly, and with it all others.

    Args: is_torn: whether another pod has ended, or ends, what they do together.
    """
    while not (_has_ended(ranks) or is_torn()):
        time.sleep(_LOOK_S)
    began_s = time.monotonic()
    while any(rank.code is None for rank in ranks):
        codes = [rank.code for rank in ranks]
        is_farewell = is_asked_to_stop() or codes[0] == 0 or _STOPPED in codes
        if time.monotonic() - began_s > (_FAREWELL_S if is_farewell else _LAST_WORDS_S):
            break
        time.sleep(_LOOK_S)
    for rank in ranks:
        rank.end()


def _has_ended(ranks: Sequence[Rank]) -> bool:
    """Whether the first has, or any badly; on other nodes than the first all end without a word."""
    codes = [rank.code for rank in ranks]
    has_led = ranks[0].number == 0 and codes[0] is not None
    return has_led or any(codes) or all(code is not None for code in codes)
