"""However a run ends, nothing of it is left running unasked, and the next run ends well."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from tests.builders import tuning_manifest
from tests.flows.conftest import RUN_TIMEOUT_S, Installation, write_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def workspace(installation: Installation) -> Path:
    """A run of two dozen short steps, without held-out rows."""
    return of_epochs(installation, 2)


def of_epochs(installation: Installation, epochs: int) -> Path:
    training = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": epochs,
    }
    return write_workspace(installation.home, "short", rows=24, training=training, split=1)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def step_of(installation: Installation) -> int:
    found = list(installation.home.glob("namespaces/*/workspaces/short/status.json"))
    if not found:
        return 0
    status = yaml.safe_load(found[0].read_text())
    return int(status["progress"]["step"]) if status["progress"]["stepName"] == "tune" else 0


def trainer(installation: Installation) -> psutil.Process:
    (record,) = installation.home.rglob("tune.process.json")
    return psutil.Process(yaml.safe_load(record.read_text())["pid"])


def test_ctrl_c_stops_everything_and_the_next_run_resumes(
    installation: Installation, workspace: Path
) -> None:
    run = installation.start("run", str(workspace))
    wait_for(lambda: step_of(installation) >= 3)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert installation.process_ids() == []
    assert installation.object("short")["status"]["state"] == "Stopped"
    assert installation.kaitoflow("run", str(workspace)).returncode == 0
    (log,) = installation.home.rglob("tune.log")
    assert '"phase": "train", "step": 1,' not in log.read_text()


def test_a_killed_command_leaves_its_trainer_to_the_next_run(installation: Installation) -> None:
    workspace = of_epochs(installation, 8)  # it trains for longer than the next run takes to start
    run = installation.start("run", str(workspace))
    wait_for(lambda: step_of(installation) >= 2)
    run.kill()
    run.wait()
    first = trainer(installation)
    ended = installation.kaitoflow("run", str(workspace))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert trainer_id(installation) == first.pid


def trainer_id(installation: Installation) -> int:
    (record,) = installation.home.rglob("tune.process.json")
    return int(yaml.safe_load(record.read_text())["pid"])


def test_a_killed_trainer_is_started_again_by_the_same_run(
    installation: Installation, workspace: Path
) -> None:
    run = installation.start("run", str(workspace))
    wait_for(lambda: step_of(installation) >= 2)
    trainer(installation).kill()
    assert run.wait(RUN_TIMEOUT_S) == 0
    assert installation.object("short")["status"]["state"] == "Ready"


def test_a_killed_prefect_server_is_started_again_within_the_run(
    installation: Installation, workspace: Path
) -> None:
    installation.environment.pop("PREFECT_API_URL")
    run = installation.start("run", str(workspace))
    wait_for(lambda: step_of(installation) >= 2)
    record = installation.home / "prefect" / "server.json"
    psutil.Process(yaml.safe_load(record.read_text())["process"]["pid"]).kill()
    assert run.wait(RUN_TIMEOUT_S) == 0
    assert not record.exists()


def test_stop_ends_the_server_and_run_starts_it_again(
    installation: Installation, workspace: Path
) -> None:
    assert installation.kaitoflow("run", str(workspace)).returncode == 0
    assert "serve" in installation.kaitoflow("stop", "short").stdout
    assert installation.process_ids() == []
    assert "False" in installation.kaitoflow("get", "short").stdout
    assert installation.kaitoflow("run", str(workspace)).returncode == 0
    assert len(installation.process_ids()) == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("<!doctype html><html>log in</html>", "HTML"),
        ("", "empty"),
        ('{"messages": [{"role": "user", "content": "q"}]}\n' * 3, "no assistant"),
    ],
)
def test_a_bad_dataset_exits_with_3_and_leaves_nothing(
    installation: Installation, rows: str, words: str
) -> None:
    (installation.home / "rows.jsonl").write_text(rows)
    manifest = tuning_manifest("bad", input={"urls": ["file:rows.jsonl"]})
    path = installation.home / "bad.yaml"
    path.write_text(yaml.safe_dump(manifest))
    ended = installation.kaitoflow("run", str(path))
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert words in ended.stderr
    assert installation.process_ids() == []
    assert "No workspaces found" in installation.kaitoflow("get").stdout
