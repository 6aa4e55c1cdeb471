"""What a small model learns with the defaults, from two data sets of other kinds than the demo's.

Run as `python tests/bench/bench_tasks.py [--weights FOLDER] [--rows 400] [--asked 100]`. For short
labels and for conversations under a system prompt: a Workspace is tuned and served as the demo's
is, with no setting of its own, and asked what it was not trained on; so is its base, by the same
server. Without --weights they are fetched. Prints a table and writes build/bench/tasks.json.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is started by its path

from tests.bench.local_home import LocalHome  # noqa: E402
from tests.bench.task_data import Row, TaskData, conversations, short_labels  # noqa: E402

_AT_ONCE, _MOST_TOKENS, _ANSWERS_IN_S = 8, 120, 300


@dataclass(frozen=True)
class Learned:
    """The mean of each score, of the base and of what it was tuned to."""

    task: str
    rows: int
    asked: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    tuned: str


def main() -> None:
    """Tune, ask, print, write."""
    options = _options()
    figures = []
    for make in (short_labels, conversations):
        data = make(rows=options.rows, asked=options.asked)
        with tempfile.TemporaryDirectory() as folder:
            figures.append(_learned(data, Path(folder), options.weights))
            sys.stdout.write(_line(figures[-1]))
            sys.stdout.flush()
    report = ROOT / "build" / "bench" / "tasks.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(list(map(asdict, figures)), indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, help="a model's folder; else they are fetched")
    parser.add_argument("--rows", type=int, default=400, help="to train on, at most")
    parser.add_argument("--asked", type=int, default=100, help="other rows, to ask")
    return parser.parse_args()


def _learned(data: TaskData, folder: Path, weights: Path | None) -> Learned:
    rows = folder / f"{data.name}.jsonl"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in data.train), encoding="utf-8")
    home = LocalHome(folder, data.name, rows, weights)
    try:
        home.kaitoflow("run", str(home.file))
        status = home.status
        assert status.endpoint
        base, tuned = _models(status.endpoint.url, data.name)
        before = _scored(data, _answers(status.endpoint.url, base, data.asked))
        after = _scored(data, _answers(status.endpoint.url, tuned, data.asked))
    finally:
        with contextlib.suppress(SystemExit):  # that would hide what went wrong before
            home.kaitoflow("stop", data.name)
    told = next(step.detail for step in status.steps if step.name == "tune")
    return Learned(data.name, len(data.train), len(data.asked), before, after, told)


def _models(url: str, name: str) -> tuple[str, str]:
    """The names by which the base and what it was tuned to are asked."""
    found = httpx2.get(f"{url}/v1/models", trust_env=False).json()["data"]
    [base] = [each["id"] for each in found if not each.get("parent")]
    return base, name


def _answers(url: str, model: str, asked: Sequence[Row]) -> list[str]:
    """What a model says to the last question of each row, always what is likeliest."""

    def answer(row: Row) -> str:
        question = {"model": model, "messages": row["messages"][:-1], "temperature": 0}
        told = httpx2.post(
            f"{url}/v1/chat/completions",
            json=question | {"max_tokens": _MOST_TOKENS},
            timeout=_ANSWERS_IN_S,
            trust_env=False,
        )
        return str(told.raise_for_status().json()["choices"][0]["message"]["content"] or "")

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(answer, asked))


def _scored(data: TaskData, answers: Sequence[str]) -> dict[str, float]:
    pairs = list(zip(answers, data.asked, strict=True))
    return {
        name: round(sum(score(*pair) for pair in pairs) / len(pairs), 3)
        for name, score in data.scores.items()
    }


def _line(learned: Learned) -> str:
    scores = (
        f"{name} {learned.before[name]:.2f} -> {learned.after[name]:.2f}" for name in learned.before
    )
    told = f"{learned.rows} rows, {learned.asked} asked; {learned.tuned}"
    return f"{learned.task}: {'; '.join(scores)} ({told})\n"


if __name__ == "__main__":
    main()
