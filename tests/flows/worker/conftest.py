"""Workers as real processes, on a real Prefect server, with deployments of toy flows."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from flows.worker.endpoint import poke_worker
from tests.flows.prefect import ask

T = TypeVar("T")
WAIT_S = 180.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
QUICK = {
    "KAITOFLOW_WORKER_HEARTBEAT_S": "1",
    "KAITOFLOW_WORKER_LEASE_S": "120",
    "KAITOFLOW_WORKER_POLL_S": "1",
    "KAITOFLOW_WORKER_WATCH_S": "0.5",
    "KAITOFLOW_WORKER_PORT": "0",
}
# Long enough that only a poke can have made a run start.
NO_POLLING = {"KAITOFLOW_WORKER_POLL_S": "3600"}


def wait_until(look: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """What `look` answers, as soon as it is true; a server that is away is asked again."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(httpx2.TransportError):
            if found := look():
                return found
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.2)


@dataclass
class WorkerProcess:
    """A worker in a process of its own, with what it printed."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def url(self) -> str:
        return wait_until(self._url, f"the worker to listen: {self.log.read_text()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def _url(self) -> str:
        assert self.process.poll() is None, self.log.read_text()
        address = self.log.read_text().partition("listening on ")[2].split("\n")[0].strip()
        return f"http://{address}" if address else ""


@dataclass
class Pool:
    """A work pool on a server, with files that its runs write and wait for."""

    api: str
    folder: Path
    name: str = field(default_factory=lambda: f"pool-{uuid.uuid4().hex[:8]}")
    workers: list[WorkerProcess] = field(default_factory=list)
    worker_url: str = ""

    def __post_init__(self) -> None:
        self.call("POST", "/work_pools/", {"name": self.name, "type": "kaitoflow"})

    @property
    def path(self) -> Path:
        """Where runs note what they lived through."""
        return self.folder / "notes"

    @property
    def gate(self) -> Path:
        """What they wait for."""
        return self.folder / "gate"

    def call(self, method: str, route: str, body: Any = None) -> Any:
        answer = ask(method, f"{self.api}{route}", json=body)
        assert answer.is_success or answer.status_code == httpx2.codes.CONFLICT, answer.text
        return answer.json() if answer.content else None

    def start_worker(self, *arguments: str, name: str = "", **environment: str) -> WorkerProcess:
        command = ["-m", "flows", "worker", "--pool", self.name, *arguments]
        return self.spawn(*command, "--name", name or f"w-{uuid.uuid4().hex[:6]}", **environment)

    def spawn(self, *command: str, **environment: str) -> WorkerProcess:
        log = self.folder / f"worker-{len(self.workers)}.log"
        ours = {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder),
            "KAITOFLOW_HOME": str(self.folder),
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *command],
                env=os.environ | ours | QUICK | environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(WorkerProcess(process, log))
        return self.workers[-1]

    def deploy(self, flow: str, entrypoint: str = "") -> str:
        flow_id = self.call("POST", "/flows/", {"name": flow})["id"]
        deployment = {
            "name": self.name,
            "flow_id": flow_id,
            "work_pool_name": self.name,
            "entrypoint": entrypoint or f"tests.flows.worker.toys.{flow}",
            "parameter_openapi_schema": {"type": "object", "properties": {}},
        }
        return str(self.call("POST", "/deployments/", deployment)["id"])

    def start_run(self, flow: str, deployment: str = "", **parameters: Any) -> str:
        deployment = deployment or self.deploy(flow)
        route = f"/deployments/{deployment}/create_flow_run"
        run_id = str(self.call("POST", route, {"parameters": parameters})["id"])
        self.poke()
        return run_id

    def poke(self) -> None:
        if self.worker_url:
            assert asyncio.run(poke_worker(self.worker_url))

    def start_guarded(self, number: int = 1, flow: str = "guarded") -> list[str]:
        deployment = self.deploy(flow)
        parameters = {"path": str(self.path), "gate": str(self.gate)}
        return [self.start_run(flow, deployment, **parameters) for _ in range(number)]

    def cancel(self, run_id: str) -> None:
        """As the UI does."""
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
        self.call("POST", f"/flow_runs/{run_id}/set_state", body)

    def state(self, run_id: str) -> dict[str, Any]:
        state: dict[str, Any] = self.call("GET", f"/flow_runs/{run_id}")["state"]
        return state

    def wait_for(self, *run_ids: str, states: tuple[str, ...] = FINAL) -> Counter[str]:
        """The states in which all of the runs are."""

        def look() -> Counter[str] | None:
            found = [self.state(run_id)["type"] for run_id in run_ids]
            return Counter(found) if set(found) <= set(states) else None

        return (
            wait_until(look, f"{states}: {[self.state(r)['name'] for r in run_ids]}") or Counter()
        )

    def notes(self, word: str) -> list[str]:
        """The runs that noted the word, in order."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [line.split()[1] for line in lines if line.split()[0].split(":")[0] == word]

    def wait_for_notes(self, word: str, number: int) -> list[str]:
        return wait_until(
            lambda: found if len(found := self.notes(word)) >= number else [],
            f"{number} x {word!r}: {self.path.read_text() if self.path.exists() else ''}",
        )

    def log_of(self, run_id: str, about: str = "", expected: int = 0) -> list[str]:
        """The lines of a run's log about something, if there are as many as expected."""
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}
        lines = [line["message"] for line in self.call("POST", "/logs/filter", body)]
        found = [line for line in lines if about in line]
        return found if expected in (0, len(found)) else []

    def close(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            worker.process.wait(WAIT_S)


@pytest.fixture
def pool(crowded_prefect: str, tmp_path: Path) -> Iterator[Pool]:
    """A pool of its own for one test; the test starts the workers."""
    made = Pool(crowded_prefect, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def shared_worker(prefect_home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A worker that lives as long as the tests and does not poll."""
    made = Pool(prefect_home, tmp_path_factory.mktemp("shared-worker"))
    made.worker_url = made.start_worker(**NO_POLLING).url
    yield made
    made.close()


@pytest.fixture
def shared(shared_worker: Pool, tmp_path: Path) -> Pool:
    """The pool of the shared worker, with files of its own for one test."""
    made = object.__new__(Pool)
    made.__dict__ |= shared_worker.__dict__ | {"folder": tmp_path}
    return made
