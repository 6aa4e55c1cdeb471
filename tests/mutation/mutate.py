"""Break modules one line at a time and see which breaks their fast tests notice.

Run as `python -m tests.mutation.mutate [--mutants N] [--seed S] MODULE...`, or by `make mutate`. A
module is a path or a pattern such as `tasks/plan/*.py`. Of each a seeded sample of mutants is made
in a copy of the checkout, which may be worked on meanwhile; against each run the fast tests of the
module, and where they pass those of its room (see `_tests_of`). Printed are the killed and the
survived of each module, with every survivor.

Fast means: not marked slow, cluster or e2e, no server of a whole session, and under half a second
of CPU, beside what the first test of all has to import. A mutant that hangs its tests for long
counts as killed; one whose tests had no core for most of that time is undecided, which is no kill.
Mutants run here as the code that they are: leave out modules that end processes or delete folders.
"""

import argparse
import ast
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mutation.operators import Mutant, find_mutants

ROOT = Path(__file__).parents[2]
_FAST_TEST_CPU_S = 0.5
# What waits for long is left out, by a clock that stands while it lacks a core (see `_clock_s`).
_LONG_TEST_S = 10.0
_HANGING_TEST_S = 60
_MUTANT_LIMIT_S = 600.0
_UNDECIDED = 71
_BASELINE_LIMIT_S = 1800.0
# Each takes seconds to start: a test that asks for one is not fast.
_DEAR_FIXTURES = frozenset(
    "cluster control_plane kubeconfig namespace registry smollm2_weights tiny_weights".split()
)
# What may be a mutant, or import one: each mutant's process imports it anew.
_OURS = frozenset("__main__ demo flows requirements serving tasks tests".split())
_OPTIONS = (
    "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist",
    "-m", "not slow and not cluster and not e2e and not registry", "--durations=0",
    "-W", "ignore::pytest.PytestAssertRewriteWarning", "-o", f"timeout={_HANGING_TEST_S}",
)  # fmt: skip


@dataclass(eq=False)
class Fast:
    """A pytest plugin: keeps the tests that are fast, or those named, and times them.

    cpu_s: of each test, its fixtures and the processes that it ended. too_long: by the clock.
    starved: ran out of time, most of which went by without a core.
    """

    only: frozenset[str] = frozenset()
    cpu_s: dict[str, float] = field(default_factory=dict)
    too_long: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    out_of_time: set[str] = field(default_factory=set)
    starved: set[str] = field(default_factory=set)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what is dear."""
        items[:] = [item for item in items if self._is_wanted(item)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Keep what a test takes in all."""
        began_s, cpu_s = _clock_s(), _cpu_s()
        done = yield
        self.cpu_s[item.nodeid] = _cpu_s() - cpu_s
        taken_s = _clock_s() - began_s
        if taken_s > _LONG_TEST_S:
            self.too_long.add(item.nodeid)
        if item.nodeid in self.out_of_time and taken_s < _HANGING_TEST_S / 2:
            self.starved.add(item.nodeid)
        return done

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep which have failed, and which of them since they took too long."""
        if report.failed:
            self.failed.add(report.nodeid)
        if report.failed and "Timeout (>" in report.longreprtext:
            self.out_of_time.add(report.nodeid)

    @property
    def fast(self) -> set[str]:
        """The tests that passed, quickly."""
        quick = {test for test, cpu_s in self.cpu_s.items() if cpu_s < _FAST_TEST_CPU_S}
        return quick - self.failed - self.too_long

    def _is_wanted(self, item: pytest.Item) -> bool:
        if self.only:
            return item.nodeid in self.only
        return not _DEAR_FIXTURES & set(getattr(item, "fixturenames", ()))


@dataclass
class Verdict:
    """What became of a module's mutants."""

    module: str
    tests: int
    killed: int = 0
    survived: list[Mutant] = field(default_factory=list)
    undecided: list[Mutant] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.killed + len(self.survived) + len(self.undecided)


def main() -> None:
    """Print the figures of each module, then those of all."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        checkout, fast = _copied(Path(folder)), FastTests()
        verdicts = [
            _try_module(checkout, module, fast, mutants=arguments.mutants, seed=arguments.seed)
            for module in _modules(arguments.modules)
        ]
    _say(_line("all", sum(v.tests for v in verdicts), *_sums(verdicts)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__)
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--mutants", type=int, default=10, help="at most so many of each module")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _import_libraries(names: Iterable[str]) -> None:
    for name in names:
        # What a test has put among the modules is none of a library's.
        with suppress(Exception):
            importlib.import_module(name)


def _copied(folder: Path) -> Path:
    """The tracked files of this checkout, and what its tests were built with."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    for name in listed.stdout.decode().split("\n"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "home").mkdir()
    for built in ("build", ".tools"):
        if (ROOT / built).exists():
            (folder / built).symlink_to(ROOT / built)
    return folder


def _modules(patterns: list[str]) -> list[str]:
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    modules = sorted(str(path.relative_to(ROOT)) for path in found if path.suffix == ".py")
    if not modules:
        raise SystemExit(f"mutate was asked for {' '.join(patterns)}; no such module; name a path")
    return modules


class FastTests:
    """The fast tests of each room, found once: many modules have the same."""

    def __init__(self) -> None:
        self._known: dict[frozenset[str], frozenset[str]] = {}

    def tiers(self, checkout: Path, module: str) -> list[frozenset[str]]:
        """The fast tests about a module, and then the others of its room."""
        tiers = _tests_of(checkout, module)
        files = frozenset(file for tier in tiers for file in tier)
        if files and files not in self._known:
            self._known[files] = _fast_tests(checkout, sorted(files))
        found = self._known.get(files, frozenset())
        return [frozenset(t for t in found if t.partition("::")[0] in tier) for tier in tiers]


def _try_module(
    checkout: Path, module: str, known: FastTests, *, mutants: int, seed: int
) -> Verdict:
    started_s = time.monotonic()
    source = (checkout / module).read_text()
    tiers = known.tiers(checkout, module)
    verdict = Verdict(module, sum(map(len, tiers)))
    found = find_mutants(source)
    for mutant in random.Random(f"{seed} {module}").sample(found, min(mutants, len(found))):
        (checkout / module).write_text(mutant.apply(source))
        _forget_compiled(checkout / module)
        passed = _passed(checkout, tiers)
        if passed is None:
            verdict.undecided.append(mutant)
        elif passed:
            verdict.survived.append(mutant)
        else:
            verdict.killed += 1
    (checkout / module).write_text(source)
    taken_s = time.monotonic() - started_s
    _say(f"{_line(module, verdict.tests, verdict.killed, verdict.total)}  {taken_s:5.0f} s")
    for name, mutants_left in (("survived", verdict.survived), ("undecided", verdict.undecided)):
        for mutant in sorted(mutants_left, key=lambda each: each.line):
            was, now = (" ".join(words.split())[:60] for words in (mutant.was, mutant.text))
            _say(f"    {name} {module}:{mutant.line} {mutant.operator}: {was} -> {now}")
    return verdict


def _tests_of(checkout: Path, module: str) -> list[list[str]]:
    """The test files that bear the module's name or import it, and then the others of its room.

    Where tests have no such room, all those that bear its name or import it.
    """
    name = module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    last = name.rpartition(".")[2]
    every = sorted((checkout / "tests").rglob("test_*.py"))
    room = _room_of(checkout, module)
    files = [path for path in every if room in path.parents] if room else every
    about = [
        path
        for path in files
        if _is_named_for(last, path.stem.removeprefix("test_")) or name in _imported(path)
    ]
    others = [path for path in files if path not in about] if room else []
    return [[str(path.relative_to(checkout)) for path in tier] for tier in (about, others) if tier]


def _room_of(checkout: Path, module: str) -> Path | None:
    """Where the tests of a module are: `tests/plan` of `tasks/plan`, `tests/flows` of `flows`."""
    world, *rooms = Path(module).parent.parts
    for parts in ((world, *rooms), rooms, rooms[:1]):
        folder = checkout.joinpath("tests", *parts)
        if parts and any(folder.glob("test_*.py")):
            return folder
    return None


def _is_named_for(module: str, test: str) -> bool:
    return f"{module}_".startswith(f"{test}_") or f"{test}_".startswith(f"{module}_")


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    return names


def _fast_tests(checkout: Path, files: list[str]) -> frozenset[str]:
    """Those that pass and are fast; their modules are compiled on the way.

    What took long is tried once more: the first test of a module pays for what all import. The
    libraries of which that was are imported here, for each mutant's process to inherit.
    """
    said = checkout / "home" / "said.json"

    def run() -> int:
        options = [option for option in _OPTIONS if option != "-x"]
        first = Fast()
        code = pytest.main([*options, *files], plugins=[first])
        slow = frozenset(first.cpu_s.keys() - first.fast)
        again = Fast(only=slow)
        if slow:
            pytest.main([*options, *_files(slow)], plugins=[again])
        libraries = [name for name in sys.modules if name.partition(".")[0] not in _OURS]
        said.write_text(json.dumps([[*(first.fast | again.fast)], libraries]))
        return int(code)

    said.unlink(missing_ok=True)
    _forked(checkout, run, limit_s=_BASELINE_LIMIT_S, compiles=True)
    if not said.exists():
        # Without them every mutant would count as survived.
        raise SystemExit(
            f"mutate was to find the fast tests of {Path(files[0]).parent}; they took over"
            f" {_BASELINE_LIMIT_S:.0f} s, or broke off; run it on a machine that is less busy"
        )
    fast, libraries = json.loads(said.read_text())
    _import_libraries(libraries)
    return frozenset(fast)


def _passed(checkout: Path, tiers: list[frozenset[str]]) -> bool | None:
    """Whether all pass, tier by tier until one does not; None = the machine is too busy to say."""
    answers = (_pass(checkout, fast) for fast in tiers if fast)
    return next((answer for answer in answers if not answer), True)


def _pass(checkout: Path, fast: frozenset[str]) -> bool | None:
    def run() -> int:
        tests = Fast(only=fast)
        code = int(pytest.main([*_OPTIONS, *_files(fast)], plugins=[tests]))
        return _UNDECIDED if tests.starved else code

    code = _forked(checkout, run, limit_s=_MUTANT_LIMIT_S)
    return None if code in (None, _UNDECIDED) else code == 0


def _files(tests: Iterable[str]) -> list[str]:
    return sorted({test.partition("::")[0] for test in tests})


def _cpu_s() -> float:
    """The CPU time of this process, and of those that it has waited for."""
    return sum(os.times()[:4])


def _clock_s() -> float:
    """The time by the clock, less that in which this thread could have run and had no core."""
    waited_ns = 0
    with suppress(OSError):  # only Linux tells
        waited_ns = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return time.monotonic() - waited_ns / 1e9


def _forked(
    checkout: Path, run: Callable[[], int], *, limit_s: float, compiles: bool = False
) -> int | None:
    """The exit code of `run` in a process of its own in the copy; None when it took too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 70
        try:
            code = _inside(checkout, run, compiles=compiles)
        finally:
            os._exit(code)
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _inside(checkout: Path, run: Callable[[], int], *, compiles: bool) -> int:
    os.chdir(checkout)
    os.environ |= {"HOME": str(checkout / "home"), "PYTHONPATH": str(checkout)}
    os.environ.pop("CI", None)
    # A mutant may have its module's size and second: compiled once more, it would be taken for it.
    sys.dont_write_bytecode = not compiles
    sys.path[:] = [str(checkout), *(path for path in sys.path if Path(path or ".") != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        return run()


def _forget_compiled(path: Path) -> None:
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def _sums(verdicts: list[Verdict]) -> tuple[int, int]:
    return sum(v.killed for v in verdicts), sum(v.total for v in verdicts)


def _line(name: str, tests: int, killed: int, total: int) -> str:
    share = f"{100 * killed / total:4.0f} %" if total else "    -"
    return f"{name:44} {tests:4} tests  killed {killed:3} of {total:3}  {share}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
