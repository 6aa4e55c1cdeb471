"""Runs of the trainer: in this process, or as the program that a platform starts."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from tasks.contract.podlog import parse_event
from tasks.contract.programs.tuning import TuningConfig

ROOT = Path(__file__).resolve().parents[2]
# One thread: a tiny model gains nothing from two, and sums come in one order.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Runs:
    """Makes configurations of one model and dataset under one folder."""

    folder: Path
    weights_dir: Path
    train_file: Path

    def config(
        self,
        name: str = "results",
        *,
        method: Any = "lora",
        training: Mapping[str, Any] | None = None,
        **sections: Mapping[str, Any],
    ) -> TuningConfig:
        """A run's configuration; `training` and `sections` go into its training_config.yaml.

        Unless they say otherwise every row is trained on, and nothing is compared.
        """
        arguments = {"per_device_train_batch_size": 4, "learning_rate": 0.01, **(training or {})}
        # float32, or losses would depend on what the CPU can do.
        model = {"torch_dtype": "float32"} | dict(sections.pop("ModelConfig", {}))
        ours = {"ModelConfig": model, "DatasetConfig": {"train_test_split": 1.0}}
        sections = {"TrainingArguments": arguments, **ours, **sections}
        written = self.folder / f"{name}.yaml"
        written.write_text(yaml.safe_dump({"training_config": sections}), encoding="utf-8")
        return TuningConfig(
            weights_dir=self.weights_dir,
            base_model="tests/tiny",
            base_revision="abc123",
            train_file=self.train_file,
            dataset_digest="sha256:0",
            method=method,
            training_config=written,
            results_dir=self.folder / name,
        )

    def start(self, config: TuningConfig, **environment: str) -> "subprocess.Popen[str]":
        """The program, started as a platform starts it."""
        written = config.results_dir.with_suffix(".json")
        written.write_bytes(TypeAdapter(TuningConfig).dump_json(config))
        command = [sys.executable, "-m", "tasks.tuning.pod", str(written)]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, config: TuningConfig) -> "Said":
        """Start the program and wait for its end."""
        program = self.start(config)
        out, err = program.communicate(timeout=500)
        return Said(code=program.returncode, events=events_in(out), log=err)


@dataclass(frozen=True)
class Said:
    """What a program said until its end."""

    code: int
    events: list[dict[str, Any]]
    log: str

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [event for event in self.events if "loss" in event]


def events_in(text: str) -> list[dict[str, Any]]:
    return [event for line in text.splitlines() if (event := parse_event(line))]


def losses(config: TuningConfig) -> list[float]:
    """The training losses that a finished run has published."""
    metrics = json.loads((config.results_dir / "adapter" / "metrics.json").read_text())
    return [line["loss"] for line in metrics["history"]]
