"""Our trainer beside TRL's SFTTrainer with its default settings, on the same rows.

Run as `python tests/bench/bench_tuning.py [--weights FOLDER] [--data JSONL] [--train-rows 96]`.
Each side is a process of its own and trains one epoch of QLoRA, rank 8 on all linear layers, over
the same training rows; the loss on the answers of the same held-out rows is taken in the same way.
Without --data the rows are the demo's, made from the standard library's docstrings. Prints a table
and writes build/bench/tuning.json. On CPU and CUDA.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
WEIGHTS = ROOT / "build" / "models" / "smollm2-135m-instruct"
MAX_LENGTH = 1024
# Beside other work, threads that spin while they wait would make a lottery of either side's speed.
ENVIRONMENT = os.environ | {"GOMP_SPINCOUNT": "2000", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Measured:
    """One side's run. tokens: trained on, padding left out."""

    side: str
    steps: int
    tokens: int
    tokens_per_s: float
    peak_memory_gib: float
    held_out_loss: float


def main() -> None:
    """Measure, print, write."""
    options = _options()
    if options.peer:
        sys.stdout.write(json.dumps(asdict(train_with_trl(options))) + "\n")
        return
    with tempfile.TemporaryDirectory() as work:
        options.data = _write_rows(options, Path(work))
        measured: list[Measured] = []
        for number in range(options.repeats):
            ours, loss_before = _run_ours(options, Path(work) / str(number))
            measured += [ours, _run_peer(options)]
    _report(measured, loss_before=loss_before)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="a model's folder")
    parser.add_argument("--data", type=Path, help="rows as the dataset program leaves them")
    parser.add_argument("--train-rows", type=int, default=96)
    parser.add_argument("--held-out-rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1, help="the medians are reported")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write_rows(options: argparse.Namespace, work: Path) -> Path:
    """As many rows as are trained on and held out; which are which, the trainer's split says."""
    source = options.data or _demo_rows(work)
    wanted = options.train_rows + options.held_out_rows
    rows = source.read_text("utf-8").splitlines()[:wanted]
    if len(rows) < wanted:
        sys.exit(f"{wanted} rows were asked for, {source} has {len(rows)}; lower --train-rows")
    chosen = work / "rows.jsonl"
    chosen.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return chosen


def _demo_rows(work: Path) -> Path:
    import pyarrow.parquet as pq

    table, rows = work / "demo.parquet", work / "demo.jsonl"
    program = [sys.executable, "-m", "demo.docstrings", str(table), "--rows", "320"]
    subprocess.run([*program, "--seed", "0"], check=True, env=ENVIRONMENT, cwd=ROOT)
    lines = [json.dumps(row) for row in pq.read_table(table).to_pylist()]
    rows.write_text("\n".join(lines), encoding="utf-8")
    return rows


def _run_ours(options: argparse.Namespace, work: Path) -> tuple[Measured, float]:
    """The pod program, as a platform runs it; and the held-out loss before."""
    work.mkdir()
    dataset = {"shuffle_dataset": False, "train_test_split": _share(options)}
    settings = {"training_config": {"DatasetConfig": dataset}}
    (work / "training_config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    fields = {
        "weights_dir": options.weights,
        "base_model": options.weights.name,
        "base_revision": "local",
        "train_file": options.data,
        "dataset_digest": "local",
        "method": "qlora",
        "training_config": work / "training_config.yaml",
        "results_dir": work / "results",
    }
    config = work / "config.json"
    config.write_text(json.dumps(fields, default=str), encoding="utf-8")
    result = _last_line([sys.executable, "-m", "tasks.tuning.pod", str(config)])
    measured = Measured(
        side="kaitoflow",
        steps=result["steps"],
        tokens=result["tokens"],
        tokens_per_s=result["tokens_per_s"],
        peak_memory_gib=result["peak_memory_gib"],
        held_out_loss=result["held_out"]["loss_after"],
    )
    return measured, result["held_out"]["loss_before"]


def _share(options: argparse.Namespace) -> float:
    """The share of the rows that is trained on, about."""
    return float(options.train_rows / (options.train_rows + options.held_out_rows))


def _run_peer(options: argparse.Namespace) -> Measured:
    names = ("weights", "data", "train_rows", "held_out_rows")
    given = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    return Measured(**_last_line([sys.executable, __file__, "--peer", *given]))


def _last_line(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def train_with_trl(options: argparse.Namespace) -> Measured:
    """A QLoRA run as TRL's documentation shows it: its defaults, but one epoch and no reports."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from serving.model.loading import load_base_model, load_tokenizer
    from tasks.contract.training_config import DatasetSettings
    from tasks.tuning.pod.progress import peak_memory_gib
    from tasks.tuning.pod.split import split_rows

    rows = [json.loads(line) for line in options.data.read_text("utf-8").splitlines()]
    ours = DatasetSettings(shuffle_dataset=False, train_test_split=_share(options))
    split = split_rows(rows, ours)
    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = load_base_model(options.weights, dtype=torch.bfloat16, quantization=quantization)
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=output_dir,
                num_train_epochs=1,
                report_to="none",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=Dataset.from_list([rows[place] for place in split.trained]),
            processing_class=load_tokenizer(options.weights),
            peft_config=LoraConfig(
                r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        ended = trainer.train()
    tokens = next(int(line["num_tokens"]) for line in reversed(trainer.state.log_history))
    return Measured(
        side="trl defaults",
        steps=trainer.state.global_step,
        tokens=tokens,
        tokens_per_s=tokens / ended.metrics["train_runtime"],
        peak_memory_gib=peak_memory_gib(),
        held_out_loss=_held_out_loss(
            trainer.model, options, [rows[place] for place in split.measured]
        ),
    )


def _held_out_loss(model: Any, options: argparse.Namespace, rows: list[dict[str, Any]]) -> float:
    """The mean over all answer tokens of the rows, as our trainer takes it."""
    import torch

    from serving.model.loading import load_tokenizer
    from tasks.tuning.pod.data import tokenise

    total, tokens = 0.0, 0
    model.eval()
    for one in tokenise(rows, load_tokenizer(options.weights), max_length=MAX_LENGTH).examples:
        ids = torch.tensor([one.input_ids], device=model.device)
        labels = torch.tensor([one.labels], device=model.device)
        with torch.no_grad(), torch.autocast(model.device.type, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        total += float(loss) * one.answer_tokens
        tokens += one.answer_tokens
    return total / tokens


def _report(measured: Sequence[Measured], *, loss_before: float) -> None:
    ours, theirs = (
        _median([one for one in measured if one.side == side])
        for side in ("kaitoflow", "trl defaults")
    )
    ratios = {
        "tokens_per_s": ours.tokens_per_s / theirs.tokens_per_s,
        "peak_memory": ours.peak_memory_gib / theirs.peak_memory_gib,
    }
    lines = [
        f"{'side':<14} {'steps':>5} {'tokens':>7} {'tok/s':>7} {'GiB':>6} {'held-out loss':>14}"
    ]
    lines += [
        f"{one.side:<14} {one.steps:>5} {one.tokens:>7} {one.tokens_per_s:>7.0f} "
        f"{one.peak_memory_gib:>6.2f} {one.held_out_loss:>14.3f}"
        for one in (ours, theirs)
    ]
    lines += [
        f"held-out loss before: {loss_before:.3f}",
        f"tokens/s: {ratios['tokens_per_s']:.1f} times theirs",
        f"peak memory: {ratios['peak_memory']:.2f} times theirs",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    report = ROOT / "build" / "bench" / "tuning.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    runs = [asdict(one) for one in measured]
    written = {"runs": runs, "loss_before": loss_before, "ratios": ratios}
    report.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _median(runs: Sequence[Measured]) -> Measured:
    middle = {
        name: statistics.median(getattr(one, name) for one in runs)
        for name in ("tokens_per_s", "peak_memory_gib", "held_out_loss")
    }
    return Measured(side=runs[0].side, steps=runs[0].steps, tokens=runs[0].tokens, **middle)


if __name__ == "__main__":
    main()
