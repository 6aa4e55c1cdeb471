"""Pods of one Job, a node each, are one program: the first speaks, and a lost one is waited for."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import GpuIncompatible, PodsNotTogether
from tasks.tuning.pod.meeting import Line, Meeting, Nodes, free_port
from tasks.tuning.pod.together import train_together

# What every toy begins with; it is called with its folder, and then with what it is started with.
_HEAD = """
import json, os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[1]), int(os.environ["RANK"])
def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
beginnings = len(list(folder.glob(f"begun-{rank}-*")))
(folder / f"begun-{rank}-{beginnings}").touch()
def until(name):
    while not (folder / name).exists():
        time.sleep(0.02)
"""
# A pod but the first, as its container runs it.
_POD = """
import json, sys
from tasks.tuning.pod.meeting import Nodes
from tasks.tuning.pod.together import train_together
nodes, processes, command = json.loads(sys.argv[1])
train_together(command, processes=processes, nodes=Nodes(**nodes))
"""


@dataclass
class Pods:
    """A run on two nodes or more, whose pods all are on this machine."""

    folder: Path
    nodes: Nodes
    opened: ExitStack

    def toy(self, body: str) -> list[str]:
        script = self.folder / "toy.py"
        script.write_text(_HEAD + textwrap.dedent(body))
        return [sys.executable, str(script), str(self.folder)]

    def start(
        self, command: list[str], *, number: int = 1, processes: int = 1
    ) -> "subprocess.Popen[bytes]":
        """Another pod than the first; it ends with the test."""
        told = [asdict(replace(self.nodes, number=number)), processes, command]
        pod = subprocess.Popen(
            [sys.executable, "-c", _POD, json.dumps(told)],
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        self.opened.callback(pod.wait)
        self.opened.callback(kill, pod)
        return pod

    def lead(self, command: list[str], *, processes: int = 1) -> Any:
        """What the first pod answers."""
        return train_together(command, processes=processes, nodes=self.nodes)


def kill(pod: "subprocess.Popen[bytes]") -> None:
    """As a node that goes takes all of a pod along at once."""
    if pod.poll() is None:
        os.killpg(pod.pid, signal.SIGKILL)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    nodes = Nodes(
        number=0, count=2, host="localhost", port=free_port(), job="uid-of-it", patience_s=60
    )
    with ExitStack() as opened:
        yield Pods(tmp_path, nodes, opened)


def test_the_processes_of_all_nodes_are_numbered_through(pods: Pods) -> None:
    command = pods.toy("""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
        (folder / f"told-{rank}").write_text(json.dumps([os.environ[name] for name in names]))
        if rank == 0:
            for other in (1, 2, 3):
                until(f"told-{other}")
            say("result", port=os.environ["MASTER_PORT"])
    """)
    pods.start(command, processes=2)
    assert pods.lead(command, processes=2)["port"] != str(pods.nodes.port)
    told = [json.loads((pods.folder / f"told-{rank}").read_text()) for rank in range(4)]
    assert told == [[str(rank), str(rank % 2), "4", "2", "localhost"] for rank in range(4)]


def test_only_the_first_pod_ends_with_the_run(pods: Pods) -> None:
    other = pods.start(pods.toy('say("result", rank=rank)'))
    assert pods.lead(pods.toy('say("result", rank=rank)')) == {"rank": 0}
    time.sleep(0.5)
    assert other.poll() is None
    other.send_signal(signal.SIGTERM)
    assert other.wait(30) == 143


def test_all_begin_anew_once_another_pod_is_there_for_a_lost_one(pods: Pods) -> None:
    lost = pods.folder / "lost"
    command = pods.toy("""
        if beginnings:
            say("result", beginnings=beginnings)
            sys.exit()
        until("never")
    """)
    first = pods.start(command)

    def lose() -> None:
        while not (pods.folder / "begun-1-0").exists():
            time.sleep(0.02)
        kill(first)
        lost.touch()
        pods.start(command)

    threading.Thread(target=lose).start()
    assert pods.lead(command) == {"beginnings": 1}
    assert lost.exists()


def test_the_others_begin_anew_with_another_first_pod(pods: Pods) -> None:
    command = pods.toy("""
        if not beginnings and rank == 1:
            until("never")
        if rank == 0:
            until("begun-1-1")
            say("result")
    """)
    pods.start(command)
    with Meeting(pods.nodes) as meeting:
        meeting.gather(is_asked_to_stop=lambda: False)
        begin = {"of": 2, "first": 1, "find": "", "host": "localhost", "port": 1, "passes": ""}
        meeting.seats[1].line.say(begin)
        while not (pods.folder / "begun-1-0").exists():
            time.sleep(0.02)
    assert pods.lead(command) == {}


def test_a_pod_that_is_asked_to_end_has_the_first_one_save_in_peace(pods: Pods) -> None:
    command = pods.toy("""
        def stop(*_):
            sys.exit(143)
        signal.signal(signal.SIGTERM, stop)
        if beginnings:
            say("result", saved=(folder / "saved").exists())
            sys.exit()
        if rank == 1:
            (folder / "ready").touch()
            time.sleep(600)
        until("stopped")
        time.sleep(3)  # longer than those have who are torn apart
        (folder / "saved").touch()
        sys.exit(143)
    """)
    other = pods.start(command)

    def ask() -> None:
        while not (pods.folder / "ready").exists():
            time.sleep(0.02)
        other.send_signal(signal.SIGTERM)
        assert other.wait(30) == 143
        (pods.folder / "stopped").touch()
        pods.start(command)

    threading.Thread(target=ask).start()
    assert pods.lead(command) == {"saved": True}


def test_a_verdict_of_another_pod_is_the_runs(pods: Pods) -> None:
    command = pods.toy("""
        if rank == 1:
            say("verdict", reason="GpuIncompatible", asked="a", found="f", fix="x", retryable=False)
            sys.exit(1)
        time.sleep(600)
    """)
    pods.start(command)
    with pytest.raises(GpuIncompatible):
        pods.lead(command)


def test_pods_that_do_not_come_in_time_are_named(pods: Pods) -> None:
    pods.nodes = replace(pods.nodes, count=3, patience_s=3.0)
    command = pods.toy('say("result")')
    pods.start(command, number=1)
    with pytest.raises(PodsNotTogether) as raised:
        pods.lead(command)
    assert raised.value.found == "pod 2 did not come within 3 s"
    assert "kueue.x-k8s.io/queue-name" in raised.value.fix


@pytest.mark.parametrize(
    "introduction",
    [{"pod": 1, "job": "another"}, {"pod": 2, "job": "uid-of-it"}, {"pod": "1"}, {}],
)
def test_nobody_but_a_pod_of_the_job_takes_a_seat(pods: Pods, introduction: Any) -> None:
    nodes = replace(pods.nodes, patience_s=1.0)
    with Meeting(nodes) as meeting:
        stranger = Line(socket.create_connection((nodes.host, nodes.port)))
        stranger.say(introduction)
        with pytest.raises(PodsNotTogether):
            meeting.gather(is_asked_to_stop=lambda: False)
    stranger.close()
