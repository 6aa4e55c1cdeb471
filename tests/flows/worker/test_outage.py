"""Prefect's server goes away for a while: what runs goes on, and the workers too.

One outage for all tests here: `patient` has a worker with a lease longer than the outage, as by
default; the lease of `hasty` ends meanwhile, so that its worker must give its runs up.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from flows.prefect_server import _CLIENT_SETTINGS
from tests.flows.worker.conftest import Pool, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
AWAY_S = 12.0  # and as long again until the server is up


@dataclass
class Server:
    """A Prefect server that can go away and come back with its history."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        environment = {
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: httpx2.get(f"{self.api}/health").is_success, "the server")

    def kill(self) -> None:
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@dataclass
class Outage:
    """What was there before, during and after."""

    patient: Pool
    hasty: Pool
    patient_runs: list[str]
    hasty_runs: list[str]
    ended_meanwhile: list[str]


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(tmp_path_factory.mktemp("server"), probe.getsockname()[1])
    server.start()
    patient = Pool(server.api, tmp_path_factory.mktemp("patient"))
    hasty = Pool(server.api, tmp_path_factory.mktemp("hasty"))
    patient.start_worker(KAITOFLOW_WORKER_LEASE_S="300")
    hasty.start_worker(KAITOFLOW_WORKER_LEASE_S="12")
    runs = patient.start_guarded(3), hasty.start_guarded(2)
    patient.wait_for_notes("began", 3)
    hasty.wait_for_notes("began", 2)
    server.kill()
    back_s = time.monotonic() + AWAY_S
    patient.gate.touch()
    ended = patient.wait_for_notes("ended", 3)
    hasty.wait_for_notes("stopped", 2)
    time.sleep(max(0, back_s - time.monotonic()))
    server.start()
    yield Outage(patient, hasty, *runs, ended)
    for pool in (patient, hasty):
        pool.close()
    server.kill()


def test_runs_inside_complete(outage: Outage) -> None:
    assert sorted(outage.ended_meanwhile) == sorted(outage.patient_runs)
    assert outage.patient.wait_for(*outage.patient_runs) == {"COMPLETED": 3}
    began = outage.patient.notes("began")
    assert {began.count(run) for run in outage.patient_runs} == {1}


def test_the_worker_takes_new_runs_afterwards(outage: Outage) -> None:
    run = outage.patient.start_guarded()[0]
    assert outage.patient.wait_for(run) == {"COMPLETED": 1}


def test_runs_are_given_up_before_others_may_take_them_and_resumed_afterwards(
    outage: Outage,
) -> None:
    hasty = outage.hasty
    again = hasty.wait_for_notes("began", 4)
    hasty.gate.touch()
    assert hasty.wait_for(*outage.hasty_runs) == {"COMPLETED": 2}
    assert sorted(again) == sorted(outage.hasty_runs * 2)
    assert hasty.notes("cleaned") == []


def test_the_client_tries_for_longer_than_two_minutes() -> None:
    tries = int(_CLIENT_SETTINGS["PREFECT_CLIENT_MAX_RETRIES"])
    assert sum(0.8 * 2**number for number in range(1, tries + 1)) > 120
