"""The processes of one pod, a GPU each: started, heard and ended."""

import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.contract.podlog import EVENT_NONCE, Event, emit, parse_event
from tasks.contract.programs.tuning import FIRST_HOST, FIRST_PORT

# Where the processes find each other; the other names are torchrun's and accelerate's.
RENDEZVOUS = "KAITOFLOW_RENDEZVOUS"
NUMBER, COUNT, PLACE, BESIDE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
VARIABLES = (RENDEZVOUS, NUMBER, COUNT, PLACE, BESIDE, FIRST_HOST, FIRST_PORT)
# The passes that fit, where those that were planned have not.
PASSES = "KAITOFLOW_PASSES"


def is_rank() -> bool:
    """Whether this process was started as one of several."""
    return RENDEZVOUS in os.environ


@dataclass
class Rank:
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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the processes of a pod stand among all of the run.

    first: number of the first of them. of: all. find: where they find each other; empty = at host
    and port, where the first process listens.
    """

    of: int
    first: int = 0
    find: str = ""
    host: str = ""
    port: int = 0

    @property
    def variables(self) -> dict[str, str]:
        """How the processes are told to find each other."""
        if self.find:
            return {RENDEZVOUS: self.find}
        return {RENDEZVOUS: "env://", FIRST_HOST: self.host, FIRST_PORT: str(self.port)}


def start(command: Sequence[str], processes: int, place: Place, *, passes: str) -> Sequence[Rank]:
    """The processes, started. Args: command: that each is; passes: see `PASSES`."""
    ranks = []
    for number in range(place.first, place.first + processes):
        process = subprocess.Popen(
            # A config that came last would make it look like the container's own process.
            [*command, f"rank-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(number, processes, place) | {PASSES: passes},
        )
        rank = Rank(number, process)
        rank.reader = threading.Thread(target=rank.read, daemon=True)
        rank.reader.start()
        ranks.append(rank)
    return ranks


def _environment(number: int, processes: int, place: Place) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k != EVENT_NONCE}
    threads = max(1, (os.cpu_count() or 1) // processes)
    inherited.setdefault("OMP_NUM_THREADS", str(threads))
    if number:
        inherited["KAITOFLOW_LOG_LEVEL"] = "WARNING"
    return (
        inherited
        | place.variables
        | {
            NUMBER: str(number),
            PLACE: str(number - place.first),
            COUNT: str(place.of),
            BESIDE: str(processes),
        }
    )
