"""Peaks of real runs of the trainer, and how they were taken.

Run as `python -m tests.estimate.measured`: takes them all again and prints the table.
"""

import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.contract.podlog import parse_event
from tasks.contract.training_config import parse_training_config
from tests.models import ROOT, smollm2
from tests.tuning.tiny import chat, write_rows

_STEPS = 3
_WORDS = "the of and model number memory node list value string path file return object".split()
_QV = ("q_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's settings and the peak of its process; every row is cut at row_tokens."""

    method: str
    rank: int = 8
    target_modules: tuple[str, ...] | None = None
    dtype: str = "auto"
    rows: int
    row_tokens: int
    recompute: bool = False
    peak_gib: float

    @property
    def name(self) -> str:
        """Its settings in a few words."""
        targets = f" on {'+'.join(self.target_modules)}" if self.target_modules else ""
        recompute = ", recomputed" if self.recompute else ""
        return (
            f"{self.method} {self.dtype} rank {self.rank}{targets}, "
            f"{self.rows} x {self.row_tokens}{recompute}"
        )

    @property
    def training_config(self) -> str:
        """The training_config.yaml that asks for it."""
        lora: dict[str, Any] = {"r": self.rank, "lora_alpha": 2 * self.rank}
        if self.target_modules:
            lora["target_modules"] = list(self.target_modules)
        training = {
            "per_device_train_batch_size": self.rows,
            "gradient_accumulation_steps": 1,
            "max_steps": _STEPS,
            "max_length": self.row_tokens,
            "gradient_checkpointing": self.recompute,
        }
        sections = {
            "ModelConfig": {"torch_dtype": self.dtype},
            "LoraConfig": lora,
            "TrainingArguments": training,
        }
        return yaml.safe_dump({"training_config": sections})


# 2026-11-27: SmolLM2-135M-Instruct, 2 cores (Intel Xeon with avx512_bf16), Debian 12, glibc 2.36,
# torch 2.15, transformers 5.23, trl 1.16, peft 0.21, bitsandbytes 0.50.
MEASURED = [
    Run(method="lora", rows=1, row_tokens=512, peak_gib=1.94),
    Run(method="lora", rows=4, row_tokens=512, peak_gib=3.93),
    Run(method="lora", rows=8, row_tokens=512, peak_gib=6.47),
    Run(method="lora", rank=16, target_modules=_QV, rows=2, row_tokens=512, peak_gib=2.23),
    Run(method="lora", dtype="float32", rows=2, row_tokens=512, peak_gib=3.81),
    Run(method="qlora", rows=1, row_tokens=512, peak_gib=2.13),
    Run(method="qlora", rows=4, row_tokens=512, peak_gib=4.0),
    Run(method="qlora", rows=2, row_tokens=1024, peak_gib=4.16),
    Run(method="qlora", rank=64, rows=2, row_tokens=512, peak_gib=2.91),
    Run(method="qlora", rows=8, row_tokens=128, peak_gib=2.98),
]


def measure(run: Run, folder: Path) -> float:
    """The peak of the process, in GiB, as the trainer reports it at its end."""
    words = random.Random(0)
    rows = [
        chat(f"say {number}", " ".join(words.choices(_WORDS, k=run.row_tokens + 50)))
        for number in range(run.rows * _STEPS)
    ]
    (folder / "training_config.yaml").write_text(run.training_config, encoding="utf-8")
    fields = {
        "weights_dir": smollm2(),
        "base_model": "tests/smollm2",
        "base_revision": "main",
        "train_file": write_rows(folder / "train.jsonl", rows),
        "dataset_digest": "sha256:0",
        "method": run.method,
        "training_config": folder / "training_config.yaml",
        "results_dir": folder / "results",
    }
    config = folder / "config.json"
    config.write_text(json.dumps(fields, default=str), encoding="utf-8")
    command = [sys.executable, "-m", "tasks.tuning.pod", str(config)]
    done = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    last = parse_event(done.stdout.splitlines()[-1])
    assert last is not None
    return float(last["peak_memory_gib"])


def estimated_gib(run: Run) -> float:
    """What the estimate says of it, from its training_config.yaml on."""
    from tasks.estimate import tuning_memory_gib
    from tasks.presets import find_preset

    shape = find_preset("smollm2-135m-instruct").shape
    assert shape is not None
    config = parse_training_config(run.training_config, method=run.method)
    return tuning_memory_gib(shape, config.tuning_shape())


def main() -> None:
    """Measure each again."""
    for run in MEASURED:
        with tempfile.TemporaryDirectory() as folder:
            peak = measure(run, Path(folder))
        estimated = estimated_gib(run)
        sys.stdout.write(
            f"{run.name:<50} {peak:>6.2f} was {run.peak_gib:.2f}, estimated {estimated:.2f} "
            f"({estimated / peak - 1:+.1%})\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
