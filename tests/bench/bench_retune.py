"""Seconds from changed data to the answer of a promoted adapter, beside the first run of the same.

Run as `python tests/bench/bench_retune.py [--weights FOLDER] [--rows 320] [--more-rows 32]`.
A home of its own: the demo's Workspace is run on the demo's rows, then there are more, and what
serves is asked again and again, as a client would, until the new adapter answers. The gate lets the
candidate pass, whatever it has learned. Without --weights they are fetched, as in the demo. Prints
a table by step and writes build/bench/retune.json. On CPU and CUDA.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is started by its path

from demo.docstrings import write_docstring_dataset  # noqa: E402
from tasks.contract.gate import GATE_ANNOTATION  # noqa: E402
from tests.bench.local_home import LocalHome  # noqa: E402

NAME = "quickstart"
PASSES = "loss margin -100 rows 2 floor none"
_ASK_EVERY_S = 0.5


@dataclass(frozen=True)
class Measured:
    """One command: the seconds until its adapter answered, and those of each of its steps.

    details: what each step said, such as where the weights came from.
    """

    command: str
    rows: int
    until_answer_s: float
    steps_s: Mapping[str, float]
    details: Mapping[str, str]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        home = LocalHome(Path(folder), NAME, Path(folder) / "rows.parquet", options.weights)
        home.annotate({GATE_ANNOTATION: PASSES})
        try:
            first = _measured(home, "run", str(home.file), rows=options.rows, version=NAME)
            more = options.rows + options.more_rows
            again = _measured(home, "retune", NAME, rows=more, version=f"{NAME}@2")
            reused = _reused(again, told=home.status.adapters.told)
        finally:
            with contextlib.suppress(SystemExit):  # that would hide what went wrong before
                home.kaitoflow("stop", NAME)
    _report(first, again, reused)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, help="a model's folder; else they are fetched")
    parser.add_argument("--rows", type=int, default=320, help="of the first run")
    parser.add_argument("--more-rows", type=int, default=32, help="that are added then")
    return parser.parse_args()


def _measured(home: LocalHome, command: str, about: str, *, rows: int, version: str) -> Measured:
    """A command on so many rows, from when they are there until a version answers."""
    write_docstring_dataset(home.data, rows=rows, seed=0)
    before = [] if command == "run" else home.status.steps
    began_s = time.monotonic()
    with _first_answer(home, version) as answered_s:
        home.kaitoflow(command, about)
    steps = [step for step in home.status.steps if step not in before]
    return Measured(
        command=command,
        rows=rows,
        until_answer_s=round(answered_s() - began_s, 1),
        steps_s={step.name: step.seconds for step in steps},
        details={step.name: step.detail for step in steps},
    )


@contextlib.contextmanager
def _first_answer(home: LocalHome, version: str) -> Iterator[Callable[[], float]]:
    """When an adapter first answered, for who asks after the context; it is asked for meanwhile."""
    found: list[float] = []
    is_over = threading.Event()

    def ask() -> None:
        while not (found or is_over.is_set()):
            if _who_answers(home) == version:
                found.append(time.monotonic())
            time.sleep(_ASK_EVERY_S)

    asking = threading.Thread(target=ask)
    asking.start()

    def when() -> float:
        if not found:
            sys.exit(f"{version} does not answer; {home.status.adapters.told}")
        return found[0]

    try:
        yield when
        asking.join(60)
    finally:
        is_over.set()
        asking.join()


def _who_answers(home: LocalHome) -> str:
    """The adapter whose weights answer to the Workspace's name; empty while nothing does."""
    try:
        [kept] = home.folder.glob(f"namespaces/*/workspaces/{NAME}/status.json")
        endpoint = json.loads(kept.read_bytes())["endpoint"]
        question = {"model": NAME, "prompt": "What", "max_tokens": 1}
        url = f"{endpoint['url']}/v1/completions"
        answer = httpx2.post(url, json=question, timeout=10, trust_env=False)
    except (ValueError, LookupError, TypeError, httpx2.HTTPError):
        return ""
    return str(answer.headers.get("X-Kaitoflow-Generation", ""))


def _reused(again: Measured, *, told: str) -> Mapping[str, bool]:
    """What of the first run a retuning did not do again, as it tells itself.

    Rows are read and counted anew, since their bytes are others.
    """
    return {
        "weights": "from cache" in again.details["weights"],
        "rows": "download" not in again.steps_s,
        "server": "moved its name while it served" in told,
    }


def _report(first: Measured, again: Measured, reused: Mapping[str, bool]) -> None:
    names = dict.fromkeys((*first.steps_s, *again.steps_s))
    lines = [f"{'seconds':<16} {'first run':>10} {'retuning':>10}"]
    lines += [
        f"{name:<16} {_cell(first.steps_s.get(name))} {_cell(again.steps_s.get(name))}"
        for name in names
    ]
    total = (first.until_answer_s, again.until_answer_s)
    lines += [
        f"{'until it answers':<16} {_cell(total[0])} {_cell(total[1])}",
        f"rows: {first.rows}, then {again.rows}",
        f"a retuning took {total[1] / total[0]:.2f} times as long as the first run",
        f"weights: {first.details['weights']}; then {again.details['weights']}",
        f"reused: {', '.join(name for name, is_so in reused.items() if is_so) or 'nothing'}",
        f"done anew: {', '.join(name for name, is_so in reused.items() if not is_so) or 'nothing'}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    report = ROOT / "build" / "bench" / "retune.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    written = {
        "first": asdict(first),
        "retuning": asdict(again),
        "ratio": total[1] / total[0],
        "reused": reused,
    }
    report.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _cell(seconds: float | None) -> str:
    return f"{'-' if seconds is None else f'{seconds:.1f}':>10}"


if __name__ == "__main__":
    main()
