"""One run in several processes, a GPU each: started together, and ended together.

Their words become those of one program: progress and result are the first one's, a verdict is the
one of the process that had a reason of its own. When one dies without a word, or asks for smaller
passes, all begin anew from the last checkpoint: what they learn does not depend on it.
"""

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tasks.contract.errors import ContainerKilled, InternalError
from tasks.contract.podlog import EVENT_NONCE, Event, Stopped, emit, parse_event, verdict_error

log = logging.getLogger(__name__)

# Where the processes find each other; the other names are torchrun's and accelerate's.
RENDEZVOUS = "KAITOFLOW_RENDEZVOUS"
NUMBER, COUNT = "RANK", "WORLD_SIZE"
VARIABLES = (RENDEZVOUS, NUMBER, COUNT, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# What a process says last that needs smaller passes than were planned, and how it is told of them.
SMALLER = "smaller"
PASSES = "KAITOFLOW_PASSES"
# As often as a Job starts a new pod.
_BEGINNINGS = 3
_LOOK_S = 0.05
# When one has ended badly the others soon do, and say less of the cause; in this time they all say
# what they know. Asked to stop, they save first; then they end within this time of each other.
_LAST_WORDS_S, _FAREWELL_S = 2.0, 300.0


def is_rank() -> bool:
    """Whether this process was started as one of several."""
    return NUMBER in os.environ


def train_together(command: Sequence[str], *, processes: int) -> Mapping[str, Any]:
    """What the first process answers.

    Args: command: that each process is; what it is told beside stands in its environment.
    Raises: what a process ended with; ContainerKilled: one has died too often. Stopped.
    """
    stop = _Stop()
    before = signal.signal(signal.SIGTERM, stop.ask)
    passes = ""
    try:
        beginnings = 0
        while True:
            with tempfile.TemporaryDirectory() as folder:
                ranks = _start(command, processes, Path(folder), passes=passes)
                stop.reach(ranks)
                _wait(ranks, stop)
            ended = _Ended(ranks)
            if ended.result is not None:
                return ended.result
            if stop.is_asked:
                raise Stopped
            if ended.smaller is not None:
                passes = json.dumps(ended.smaller)
                continue
            ended.raise_for_verdict()
            beginnings += 1
            if beginnings == _BEGINNINGS:
                raise ContainerKilled(
                    f"{processes} processes were to train together",
                    f"{ended.deaths}, {beginnings} times",
                    "look at the log, and at the memory of GPUs and node; run again to resume",
                )
            log.warning("%s: all begin anew from the last checkpoint", ended.deaths)
    finally:
        signal.signal(signal.SIGTERM, before)


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
class _Rank:
    """One process; last: its result, its verdict, or that it needs smaller passes."""

    number: int
    process: "subprocess.Popen[str]"
    reader: threading.Thread | None = None
    last: Event | None = None
    was_killed: bool = False

    @property
    def code(self) -> int | None:
        """How it ended; None while it lives."""
        return self.process.poll()

    def read(self) -> None:
        """Pass on what the first process says; keep the last word of each."""
        assert self.process.stdout
        for line in self.process.stdout:
            event = parse_event(line)
            if event is None:
                continue
            if event["event"] != "progress":
                self.last = event
            elif self.number == 0:
                emit("progress", {k: v for k, v in event.items() if k != "event"})

    def end(self) -> None:
        """Kill it if it lives, and read it out."""
        if self.code is None:
            self.was_killed = True
            self.process.kill()
        self.process.wait()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        if self.reader:
            self.reader.join()
        self.process.stdout.close()


@dataclass
class _Stop:
    """That the run is asked to end; the processes are asked in turn."""

    is_asked: bool = False
    ranks: Sequence[_Rank] = field(default_factory=tuple)

    def ask(self, *_: int | FrameType | None) -> None:
        """Keep and pass on what the signal asks."""
        self.is_asked = True
        for rank in self.ranks:
            if rank.code is None:
                rank.process.terminate()

    def reach(self, ranks: Sequence[_Rank]) -> None:
        """Ask these from now on, and at once where the signal came before them."""
        self.ranks = ranks
        if self.is_asked:
            self.ask()


@dataclass(frozen=True)
class _Ended:
    """All processes, ended."""

    ranks: Sequence[_Rank]

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
    def deaths(self) -> str:
        """Which processes ended without a reason of their own, to be read."""
        silent = [one for one in self.ranks if not one.was_killed and one.last is None]
        told = (f"process {one.number} ended with exit code {one.code}" for one in silent)
        return ", ".join(told) or "a process was lost"

    def raise_for_verdict(self) -> None:
        """Raise what a process ended with of itself; nothing if all ended for one that died."""
        verdicts = [verdict_error(word) for word in self._words_of("verdict")]
        for error in verdicts:
            if not isinstance(error, InternalError):
                raise error
        has_died = any((one.code or 0) < 0 and not one.was_killed for one in self.ranks)
        if verdicts and not has_died:
            raise verdicts[0]

    def _words_of(self, event: str) -> list[Event]:
        return [one.last for one in self.ranks if one.last and one.last["event"] == event]


def _start(command: Sequence[str], processes: int, folder: Path, *, passes: str) -> list[_Rank]:
    ranks = []
    for number in range(processes):
        process = subprocess.Popen(
            # A config that came last would make it look like the container's own process.
            [*command, f"rank-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(number, processes, folder) | {PASSES: passes},
        )
        rank = _Rank(number, process)
        rank.reader = threading.Thread(target=rank.read, daemon=True)
        rank.reader.start()
        ranks.append(rank)
    return ranks


def _environment(number: int, processes: int, folder: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k != EVENT_NONCE}
    threads = max(1, (os.cpu_count() or 1) // processes)
    inherited.setdefault("OMP_NUM_THREADS", str(threads))
    if number:
        inherited["KAITOFLOW_LOG_LEVEL"] = "WARNING"
    return inherited | {
        RENDEZVOUS: str(folder / "rendezvous"),
        NUMBER: str(number),
        "LOCAL_RANK": str(number),
        COUNT: str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }


def _wait(ranks: Sequence[_Rank], stop: _Stop) -> None:
    """Until the first process has ended well, or any badly, and with it all others."""
    while not _is_over(ranks):
        time.sleep(_LOOK_S)
    patience_s = _FAREWELL_S if stop.is_asked or ranks[0].code == 0 else _LAST_WORDS_S
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s and any(rank.code is None for rank in ranks):
        time.sleep(_LOOK_S)
    for rank in ranks:
        rank.end()


def _is_over(ranks: Sequence[_Rank]) -> bool:
    return ranks[0].code is not None or any(rank.code for rank in ranks)
