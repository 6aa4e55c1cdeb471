"""A home folder with the small model, a Prefect server for the session, and runs in both."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.docstrings import write_docstring_dataset
from tests.builders import tuning_manifest
from tests.models import write_shallow

RUN_TIMEOUT_S = 400


@dataclass
class Installation:
    """One KAITOFLOW_HOME, and the command line in it."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows", *arguments]

    def env(self) -> dict[str, str]:
        return os.environ | {"KAITOFLOW_HOME": str(self.home)} | self.environment

    def kaitoflow(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            env=self.env(),
            stdin=subprocess.DEVNULL,
            timeout=RUN_TIMEOUT_S,
        )

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        log = (self.home / "started.log").open("ab")
        with log:
            return subprocess.Popen(
                self.command(*arguments), env=self.env(), stdout=log, stderr=log
            )

    def object(self, name: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.kaitoflow("get", name, "-o", "json").stdout)
        return shown

    def process_ids(self) -> list[int]:
        """Pod programs that live, by their records."""
        import psutil

        records = self.home.rglob("*.process.json")
        pids = [json.loads(path.read_text())["pid"] for path in records]
        return [pid for pid in pids if psutil.pid_exists(pid)]


def write_workspace(
    folder: Path, name: str, *, rows: int, training: dict[str, Any], split: float
) -> Path:
    """A Workspace with its ConfigMap in one file, and its dataset beside it."""
    write_docstring_dataset(folder / "rows.parquet", rows=rows, seed=0)
    sections = {
        "TrainingArguments": training,
        "DatasetConfig": {"train_test_split": split},
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings"},
        "data": {"training_config.yaml": yaml.safe_dump({"training_config": sections})},
    }
    manifest = tuning_manifest(name, config="settings", input={"urls": ["file:rows.parquet"]})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all([manifest, config_map]))
    return path


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a Prefect server that lives as long as the tests."""
    home = tmp_path_factory.mktemp("prefect-home")
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.hold_prefect"],
        env=os.environ | {"KAITOFLOW_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    address = holder.stdout.readline().strip()
    # As `kaitoflow server` does for all that it starts.
    os.environ["PREFECT_API_AUTH_STRING"] = (home / "prefect" / "password").read_text().strip()
    yield address
    holder.communicate("", timeout=60)


@pytest.fixture(scope="session")
def shallow_weights(smollm2_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model, cut to its first blocks."""
    return write_shallow(smollm2_weights, tmp_path_factory.mktemp("shallow") / "weights")


@pytest.fixture
def installation(
    tmp_path: Path, shallow_weights: Path, prefect_home: str
) -> Iterator[Installation]:
    """An installation of its own for one test, with a model that is soon trained."""
    yield from _installation(tmp_path, shallow_weights, prefect_home)


@pytest.fixture(scope="session")
def shared_installation(
    tmp_path_factory: pytest.TempPathFactory, smollm2_weights: Path, prefect_home: str
) -> Iterator[Installation]:
    """The installation in which the session's one whole run takes place, with the whole model."""
    yield from _installation(tmp_path_factory.mktemp("shared"), smollm2_weights, prefect_home)


def _installation(folder: Path, weights: Path, api_url: str) -> Iterator[Installation]:
    models = folder / "models"
    models.mkdir()
    (models / "HuggingFaceTB--SmolLM2-135M-Instruct@main").symlink_to(weights)
    made = Installation(folder, {"PREFECT_API_URL": api_url})
    yield made
    for pid in made.process_ids():
        os.kill(pid, signal.SIGKILL)


@dataclass
class FinishedRun:
    """What the session's one whole run printed and made."""

    installation: Installation
    file: Path
    output: str
    object: dict[str, Any]


@pytest.fixture(scope="session")
def finished(shared_installation: Installation) -> FinishedRun:
    """A Workspace tuned, published and served with the real model."""
    file = write_workspace(
        shared_installation.home,
        "quickstart",
        rows=52,
        training={"learning_rate": 5e-4, "num_train_epochs": 1},
        split=0.4,
    )
    ended = shared_installation.kaitoflow("run", str(file))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return FinishedRun(
        shared_installation, file, ended.stdout, shared_installation.object("quickstart")
    )
