"""A home folder with the small model, a Prefect server for the session, and runs in both."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.docstrings import write_docstring_dataset
from tasks.presets import find_preset
from tests.builders import tuning_manifest
from tests.dataset.web import running_web
from tests.flows.canary import signed
from tests.models import write_shallow
from tests.postgresql import running_postgresql

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
    folder: Path,
    name: str,
    *,
    rows: int,
    training: dict[str, Any],
    split: float,
    url: str = "file:rows.parquet",
    method: str = "lora",
) -> Path:
    """A Workspace with its ConfigMap in one file, and its dataset beside it.

    Of the shallow model qlora would quantise too little.
    """
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
    manifest = tuning_manifest(name, config="settings", input={"urls": [url]}, method=method)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all([manifest, config_map]))
    return path


@pytest.fixture(scope="session")
def prefect_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the tests' Prefect server: its database and its log."""
    return tmp_path_factory.mktemp("prefect-home")


@pytest.fixture(scope="session")
def prefect_password() -> Iterator[str]:
    """The password of all Prefect servers of these tests, in the environment of all of them.

    As `kaitoflow server` does for all that it starts.
    """
    with pytest.MonkeyPatch.context() as patch:
        password = f"kaitoflow:{secrets.token_urlsafe()}"
        patch.setenv("PREFECT_API_AUTH_STRING", password)
        yield password


@pytest.fixture(scope="session")
def prefect_home(prefect_folder: Path, prefect_password: str) -> Iterator[str]:
    """The API address of a Prefect server that lives as long as the tests."""
    with held_prefect(prefect_folder, prefect_password, {}) as address:
        yield address


@pytest.fixture(scope="module")
def crowded_prefect(
    prefect_password: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The API address of a Prefect server on PostgreSQL, as the chart has it.

    SQLite answers "database is locked" where many runs begin at once, or the disk is busy.
    """
    home = tmp_path_factory.mktemp("crowded")
    with (
        running_postgresql() as database,
        held_prefect(home, prefect_password, database.prefect_settings) as address,
    ):
        yield address


@contextmanager
def held_prefect(home: Path, password: str, settings: Mapping[str, str]) -> Iterator[str]:
    """The API address of a Prefect server of this home, which asks for the password."""
    kept = home / "prefect" / "password"
    kept.parent.mkdir()
    kept.touch(mode=0o600)
    kept.write_text(password)
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.hold_prefect"],
        env={**os.environ, "KAITOFLOW_HOME": str(home), **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        yield holder.stdout.readline().strip()
    finally:
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
    yield from installed(tmp_path, shallow_weights, prefect_home)


@pytest.fixture(scope="session")
def shared_installation(
    tmp_path_factory: pytest.TempPathFactory, smollm2_weights: Path, prefect_home: str
) -> Iterator[Installation]:
    """The installation in which the session's one whole run takes place, with the whole model."""
    yield from installed(tmp_path_factory.mktemp("shared"), smollm2_weights, prefect_home)


def installed(folder: Path, weights: Path, api_url: str) -> Iterator[Installation]:
    """An installation in a folder, with the model in its place; its programs end with it."""
    models = folder / "models"
    models.mkdir()
    preset = find_preset("smollm2-135m-instruct")
    link = models / f"{preset.model.replace('/', '--')}@{preset.revision}"
    link.symlink_to(weights)
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
def finished(shared_installation: Installation) -> Iterator[FinishedRun]:
    """A Workspace tuned, published and served with the real model.

    Its dataset is a server's, at an address with a password and a signature.
    """
    shared_installation.environment["KAITOFLOW_ALLOW_LOCAL_ADDRESSES"] = "true"
    with running_web() as web:
        file = write_workspace(
            shared_installation.home,
            "quickstart",
            rows=52,
            training={"learning_rate": 5e-4, "num_train_epochs": 1},
            split=0.4,
            url=signed(f"{web.address}/rows.parquet"),
            method="qlora",
        )
        web.serve_bytes("/rows.parquet", (file.parent / "rows.parquet").read_bytes())
        ended = shared_installation.kaitoflow("run", str(file))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        yield FinishedRun(
            shared_installation,
            file,
            ended.stdout + ended.stderr,
            shared_installation.object("quickstart"),
        )
