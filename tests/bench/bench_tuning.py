"""Our trainer beside TRL's as well as it can be set, as it comes, and run as KAITO runs it.

Run as `make bench-tuning`, or `python tests/bench/bench_tuning.py [--rows 64] [--repeats 1] ...`.
All sides train the same model on the same rows, each in a process of its own, and leave an adapter
of the same rank on the same layers; `tests/bench/tuning_measure.py`, which knows none of them,
takes the loss on the same held-out answers and asks whether answers end by themselves:

- ours: the pod program, as a platform starts it, with its default settings.
- trl_groups, trl_packed, trl_padding_free: TRL with what is meant for adapters, 2e-4 and a loss on
  answers alone, and one way each not to compute padding. trl_best is the one of the lowest loss.
- trl_defaults: TRL's SFTTrainer with nothing set.
- kaito_like: TRL as KAITO's image runs it: one row a step, all of the text learned, activations
  computed twice. Its learning rate is ours, since with KAITO's, 2e-5, so few rows change nothing.

wall_s is the time of the training steps, cpu_s and peak_rss_mb are of the whole process, with
imports, load and save. useful_tokens_per_s counts no padding. wall_s_to_kaito_loss: of the steps
after which the held-out loss was as low as at the end of kaito_like; null = not within the run.
Prints a table and writes build/bench/tuning.json. On CPU and CUDA.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "build" / "models" / "smollm2-135m-instruct"
# Beside other work, threads that spin while they wait would make a lottery of either side's speed.
ENVIRONMENT = os.environ | {"GOMP_SPINCOUNT": "2000", "PYTHONPATH": str(ROOT)}
OURS, BEST, KAITO = "ours", "trl_best", "kaito_like"
WELL_SET = ("trl_groups", "trl_packed", "trl_padding_free")
PEERS = (*WELL_SET, "trl_defaults", KAITO)
_POINTS = 8


@dataclass(frozen=True)
class Ran:
    """One run of one side. step_ends_s: of each step, from the begin of the first one on.

    adapters: by the step after which they were, the last one being what it has learned.
    """

    side: str
    tokens: int
    cpu_s: float
    peak_rss_mb: float
    step_ends_s: tuple[float, ...]
    adapters: Mapping[int, Path]

    @property
    def wall_s(self) -> float:
        """The time that its steps took."""
        return self.step_ends_s[-1]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One side: medians over its runs, which all learn the same."""

    useful_tokens_per_s: float
    wall_s: float
    cpu_s: float
    held_out_loss: float
    stop_rate: float
    peak_rss_mb: float
    steps: int
    wall_s_to_kaito_loss: float | None = None
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def main() -> None:
    """Measure, print, write."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="bench-tuning-") as folder:
        bench = Bench(Path(folder), options)
        runs: dict[str, list[Ran]] = {side: [] for side in (OURS, *PEERS)}
        for side, ran in [*runs.items()] * options.repeats:
            ran.append(bench.run(side))
            _say(f"{side}: {ran[-1].wall_s:.1f} s in its steps")
        losses = bench.measure([each[0].adapters for each in runs.values()], stops=True)
        sides = {
            side: _measured(runs[side], *last)
            for side, (*_, last) in zip(runs, losses, strict=True)
        }
        best = min(WELL_SET, key=lambda side: sides[side].held_out_loss)
        target = sides[KAITO].held_out_loss
        reached = {side: bench.reached_s(side, runs[side][0], target) for side in (OURS, best)} | {
            KAITO: sides[KAITO].wall_s
        }
        base = bench.base_loss()
    sides = {
        side: _with_reached(each, reached[side]) if side in reached else each
        for side, each in sides.items()
    }
    _report({OURS: sides[OURS], BEST: sides[best], **sides}, best=best, base=base, options=options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="a model's folder")
    parser.add_argument("--data", type=Path, help="JSON lines with messages; else the demo's rows")
    parser.add_argument("--rows", type=int, default=64, help="that are trained on, one epoch")
    parser.add_argument("--held-out-rows", type=int, default=40)
    parser.add_argument("--method", choices=["lora", "qlora"], default="qlora")
    parser.add_argument("--repeats", type=int, default=1, help="the medians are reported")
    return parser.parse_args()


class Bench:
    """The rows, and what runs and measures on them, in a folder of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        self._train, self._held_out = folder / "train.jsonl", folder / "held_out.jsonl"
        self._runs = 0
        wanted = options.rows + options.held_out_rows
        lines = (options.data or _demo_rows(folder)).read_text("utf-8").splitlines()
        if len(lines) < wanted:
            sys.exit(f"{wanted} rows were asked for; there are {len(lines)}; lower --rows")
        self._train.write_text("\n".join(lines[: options.rows]) + "\n", encoding="utf-8")
        self._held_out.write_text("\n".join(lines[options.rows : wanted]) + "\n", encoding="utf-8")

    def run(self, side: str, *, save_every: int = 0) -> Ran:
        """Train one side; save_every: steps after which what it has learned is kept, too."""
        self._runs += 1
        work = self._folder / f"{self._runs}-{side}"
        work.mkdir()
        is_ours = side == OURS
        command = self._ours(work, save_every) if is_ours else self._peer(side, work, save_every)
        steps, result, usage = _followed(command)
        tokens = result["tokens"]
        seconds = tokens / result["tokens_per_s"]
        saved = work / "results" / "checkpoints" if is_ours else work / "checkpoints"
        adapters = {int(path.name.rpartition("-")[2]): path for path in saved.glob("*-*")}
        adapters[len(steps)] = Path(result["adapter"])
        return Ran(
            side=side,
            tokens=tokens,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_rss_mb=usage.ru_maxrss * 1024 / 1e6,
            step_ends_s=tuple(seconds - (steps[-1] - at_s) for at_s in steps),
            adapters=dict(sorted(adapters.items())),
        )

    def measure(
        self, adapters: Sequence[Mapping[int, Path]], *, stops: bool
    ) -> list[list[tuple[float, float]]]:
        """Held-out loss and share of answers that stop, of each side's adapters in their order."""
        given = [str(path) for each in adapters for path in each.values()]
        told = iter(self._measured(given, stops=stops))
        return [[next(told) for _ in each] for each in adapters]

    def base_loss(self) -> float:
        """The held-out loss without an adapter."""
        return self._measured([], stops=False)[0][0]

    def reached_s(self, side: str, timed: Ran, target: float) -> float | None:
        """When a side's loss was as low as `target`, by the clock of a run that saves nothing.

        It is run once more for that, and what it has learned on its way is measured.
        """
        again = self.run(side, save_every=max(1, len(timed.step_ends_s) // _POINTS))
        (told,) = self.measure([again.adapters], stops=False)
        reached = [
            step for step, (loss, _) in zip(again.adapters, told, strict=True) if loss <= target
        ]
        return timed.step_ends_s[reached[0] - 1] if reached else None

    def _measured(self, adapters: Sequence[str], *, stops: bool) -> list[tuple[float, float]]:
        program = [sys.executable, str(ROOT / "tests/bench/tuning_measure.py")]
        asked = [str(self._options.weights), str(self._held_out), *adapters]
        done = subprocess.run(
            [*program, *(["--stops"] if stops else []), *asked],
            check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        return [(each["loss"], each["stop_rate"]) for each in json.loads(done.stdout)]

    def _ours(self, work: Path, save_every: int) -> list[str]:
        """The pod program on all rows: what is measured is measured by somebody else."""
        arguments: dict[str, Any] = {"logging_steps": 1}
        if save_every:
            arguments |= {"save_strategy": "steps", "save_steps": save_every}
            arguments |= {"save_total_limit": 1000}
        dataset = {"train_test_split": 1}
        config = {"DatasetConfig": dataset, "TrainingArguments": arguments}
        settings = work / "training_config.yaml"
        settings.write_text(json.dumps({"training_config": config}), encoding="utf-8")
        fields = {
            "weights_dir": self._options.weights,
            "base_model": self._options.weights.name,
            "base_revision": "local",
            "train_file": self._train,
            "dataset_digest": "local",
            "method": self._options.method,
            "training_config": settings,
            "results_dir": work / "results",
        }
        file = work / "config.json"
        file.write_text(json.dumps(fields, default=str), encoding="utf-8")
        return [sys.executable, "-m", "tasks.tuning.pod", str(file)]

    def _peer(self, side: str, work: Path, save_every: int) -> list[str]:
        given = {
            "weights": self._options.weights,
            "data": self._train,
            "method": self._options.method,
            "folder": work,
            "save-every": save_every,
        }
        program = [sys.executable, str(ROOT / "tests/bench/tuning_peer.py"), side]
        return [*program, *(f"--{name}={value}" for name, value in given.items())]


def _demo_rows(folder: Path) -> Path:
    import pyarrow.parquet as pq

    table, rows = folder / "demo.parquet", folder / "demo.jsonl"
    program = [sys.executable, "-m", "demo.docstrings", str(table), "--rows", "320", "--seed", "0"]
    subprocess.run(program, check=True, env=ENVIRONMENT, cwd=ROOT)
    lines = [json.dumps(row) for row in pq.read_table(table).to_pylist()]
    rows.write_text("\n".join(lines), encoding="utf-8")
    return rows


def _followed(command: Sequence[str]) -> tuple[list[float], dict[str, Any], Any]:
    """When each step was told, by our clock; the last line; what the whole process has used."""
    steps: list[float] = []
    last: dict[str, Any] = {}
    said: list[str] = []
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
        cwd=ROOT,
    )  # fmt: skip
    assert program.stdout
    with program.stdout:
        for line in program.stdout:
            said.append(line)
            if event := _event(line):
                last = event
                if "step" in event and event["step"] > len(steps):
                    steps.append(time.monotonic())
    _, status, usage = os.wait4(program.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with {code}\n{''.join(said[-30:])}")
    return steps, last, usage


def _event(line: str) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _measured(runs: Sequence[Ran], loss: float, stop_rate: float) -> Measured:
    figures = {
        "useful_tokens_per_s": [each.tokens / each.wall_s for each in runs],
        "wall_s": [each.wall_s for each in runs],
        "cpu_s": [each.cpu_s for each in runs],
        "peak_rss_mb": [each.peak_rss_mb for each in runs],
    }
    return Measured(
        **{name: statistics.median(values) for name, values in figures.items()},
        held_out_loss=loss,
        stop_rate=stop_rate,
        steps=len(runs[0].step_ends_s),
        spread={name: (min(values), max(values)) for name, values in figures.items()},
    )


def _with_reached(measured: Measured, seconds: float | None) -> Measured:
    return Measured(**{**asdict(measured), "wall_s_to_kaito_loss": seconds})


def _report(
    sides: Mapping[str, Measured], *, best: str, base: float, options: argparse.Namespace
) -> None:
    ratios = _ratios(sides)
    of_groups, of_fastest = (
        f"{ratios[name]:.2f} x {name}" for name in ("trl_groups", "trl_fastest")
    )
    reached = f"{_seconds(sides[OURS].wall_s_to_kaito_loss)} of {sides[KAITO].wall_s:.1f} s"
    _say(_table(sides))
    _say(f"held-out loss of the base model: {base:.3f}; the best of TRL is {best}")
    _say(f"useful tokens/s: {of_groups}, {of_fastest}")
    _say(f"the loss at which {KAITO} ends: after {reached}")
    report = ROOT / "build" / "bench" / "tuning.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    asked = {
        name: getattr(options, name) for name in ("rows", "held_out_rows", "method", "repeats")
    }
    written: dict[str, Any] = {side: asdict(one) for side, one in sides.items()}
    written |= {"trl_best_is": best, "base_loss": base, "ratios": ratios, "asked": asked}
    report.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _ratios(sides: Mapping[str, Measured]) -> dict[str, float | None]:
    """Ours over theirs: of useful tokens/s, and of the time to the loss of kaito_like."""
    ours, fastest = sides[OURS], max(sides[side].useful_tokens_per_s for side in WELL_SET)
    reached_s = ours.wall_s_to_kaito_loss
    return {
        "trl_groups": ours.useful_tokens_per_s / sides["trl_groups"].useful_tokens_per_s,
        "trl_fastest": ours.useful_tokens_per_s / fastest,
        "wall_s_to_kaito_loss": reached_s / sides[KAITO].wall_s if reached_s else None,
    }


def _table(sides: Mapping[str, Measured]) -> str:
    head = (
        f"{'side':<17} {'steps':>5} {'tok/s':>6} {'wall s':>7} {'CPU s':>6} {'MB':>6}"
        f" {'held-out loss':>13} {'stops':>6} {'s to KAITO-like':>15}"
    )
    rows = [
        f"{side:<17} {one.steps:>5} {one.useful_tokens_per_s:>6.0f} {one.wall_s:>7.1f}"
        f" {one.cpu_s:>6.0f} {one.peak_rss_mb:>6.0f} {one.held_out_loss:>13.3f}"
        f" {one.stop_rate:>6.0%} {_seconds(one.wall_s_to_kaito_loss):>15}"
        for side, one in sides.items()
        if side != BEST
    ]
    return "\n".join((head, *rows))


def _seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
