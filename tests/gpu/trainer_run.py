"""The trainer on random weights: its program as a platform starts it, or in this process."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.contract.podlog import parse_event
from tasks.contract.programs.tuning import TuningConfig
from tests.tuning.tiny import chat, write_rows

ROOT = Path(__file__).resolve().parents[2]
Found = dict[str, Any]


def rows_of(path: Path, *, count: int, letters: int) -> Path:
    """So many rows whose answers have so many letters, one token each; the same each time."""
    draw = random.Random(0)
    answers = ["".join(draw.choices("abcdefgh ", k=letters)) for _ in range(count)]
    return write_rows(path, [chat(f"say {number}", text) for number, text in enumerate(answers)])


def run_config(
    folder: Path, *, weights: Path, rows: Path, training: Mapping[str, Any]
) -> TuningConfig:
    """What the trainer is told for a run by qlora that is kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "training.yaml"
    # No rows are held out: to compare answers takes longer than to train so few steps.
    sections = {"TrainingArguments": dict(training), "DatasetConfig": {"train_test_split": 1.0}}
    settings.write_text(json.dumps({"training_config": sections}))
    return TuningConfig(
        weights_dir=weights,
        base_model="random/weights",
        base_revision="main",
        train_file=rows,
        dataset_digest="sha256:0",
        method="qlora",
        training_config=settings,
        results_dir=folder / "results",
    )


def run_program(config: TuningConfig, *, limit_s: float, stops: bool = False) -> Found:
    """One run of the program: how fast, how large, and what it said last.

    Args: stops: it is asked to end in its second step.
    """
    folder = config.results_dir.parent
    written = folder / "config.json"
    written.write_text(json.dumps({k: v if v is None else str(v) for k, v in vars(config).items()}))
    with (folder / "stderr").open("w") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "tasks.tuning.pod", str(written)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        events = _follow(program, stops=stops, limit_s=limit_s)
    steps = [event for event in events if "step" in event]
    last = events[-1] if events else {}
    told: Found = {
        "exit": program.returncode,
        "steps": steps[-1]["step"] if steps else 0,
        "tokens_per_s": steps[-1].get("tokens_per_s") if steps else None,
        "memory_gib": max((event.get("memory_gib", 0) for event in steps), default=None),
        "said": {key: last[key] for key in ("event", "reason", "message") if key in last},
    }
    if len(steps) > 3:  # without the first ones, in which kernels are compiled
        told["s_per_step"] = round((steps[-1]["at_s"] - steps[2]["at_s"]) / (len(steps) - 3), 3)
    return told


def _follow(program: "subprocess.Popen[str]", *, stops: bool, limit_s: float) -> list[Found]:
    """What the program says until its end; with `stops` it is asked to end in its second step."""
    assert program.stdout
    began_s, events = time.monotonic(), []
    for line in program.stdout:
        if event := parse_event(line):
            events.append(event | {"at_s": time.monotonic() - began_s})
            if stops and event.get("step", 0) == 2:
                program.send_signal(signal.SIGTERM)
        if time.monotonic() - began_s > limit_s:
            program.kill()
    program.wait()
    return events
