"""Break modules one line at a time and see which breaks their fast tests notice.

Run as `python -m tests.mutation.mutate [--mutants N] [--seed S] MODULE...`, or by `make mutate`. A
module is a path or a pattern such as `tasks/plan/*.py`. Of each a seeded sample of mutants is made
in a copy of the checkout; against each run those fast tests that are about the module (see
`_tests_of`). Printed are the killed and the survived of each module, with every survivor.

Fast means: not marked slow, cluster or e2e, no server of a whole session, and under half a second.
A mutant that hangs its tests for long counts as killed. Mutants run here as the code that they are:
leave out modules that end processes or delete folders.
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
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mutation.operators import Mutant, find_mutants

ROOT = Path(__file__).parents[2]
_FAST_TEST_S = 0.5
_MUTANT_LIMIT_S = 60.0
_BASELINE_LIMIT_S = 600.0
# Each takes seconds to start: a test that asks for one is not fast.
_DEAR_FIXTURES = frozenset(
    "cluster control_plane kubeconfig namespace registry smollm2_weights tiny_weights".split()
)
# Libraries that most tests need: imported once here, and inherited by each mutant's process.
_LIBRARIES = ("httpx2", "hypothesis", "kubernetes", "prefect", "psutil", "pydantic", "yaml")
_OPTIONS = (
    "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist",
    "-m", "not slow and not cluster and not e2e and not registry", "--durations=0",
    "-W", "ignore::pytest.PytestAssertRewriteWarning", "-o", "timeout=20",
)  # fmt: skip


@dataclass(eq=False)
class Fast:
    """A pytest plugin: keeps the tests that are fast, or those named, and times them."""

    only: frozenset[str] = frozenset()
    durations_s: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what is dear."""
        items[:] = [item for item in items if self._is_wanted(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what a test takes in all."""
        taken_s = self.durations_s.get(report.nodeid, 0.0) + report.duration
        self.durations_s[report.nodeid] = taken_s
        if report.failed:
            self.failed.append(report.nodeid)

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

    @property
    def total(self) -> int:
        return self.killed + len(self.survived)


def main() -> None:
    """Print the figures of each module, then those of all."""
    arguments = _arguments()
    _import_libraries()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        checkout = _copied(Path(folder))
        verdicts = [
            _try_module(checkout, module, mutants=arguments.mutants, seed=arguments.seed)
            for module in _modules(arguments.modules)
        ]
    _say(_line("all", sum(v.tests for v in verdicts), *_sums(verdicts)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__)
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--mutants", type=int, default=10, help="at most so many of each module")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _import_libraries() -> None:
    for name in _LIBRARIES:
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


def _try_module(checkout: Path, module: str, *, mutants: int, seed: int) -> Verdict:
    started_s = time.monotonic()
    source = (ROOT / module).read_text()
    tests = _tests_of(module)
    fast = _fast_tests(checkout, tests) if tests else {}
    verdict = Verdict(module, len(fast))
    found = find_mutants(source)
    for mutant in random.Random(f"{seed} {module}").sample(found, min(mutants, len(found))):
        (checkout / module).write_text(mutant.apply(source))
        _forget_compiled(checkout / module)
        if fast and not _pass(checkout, fast):
            verdict.killed += 1
        else:
            verdict.survived.append(mutant)
    (checkout / module).write_text(source)
    taken_s = time.monotonic() - started_s
    _say(f"{_line(module, len(fast), verdict.killed, verdict.total)}  {taken_s:5.0f} s")
    for mutant in sorted(verdict.survived, key=lambda each: each.line):
        was, now = (" ".join(words.split())[:60] for words in (mutant.was, mutant.text))
        _say(f"    survived {module}:{mutant.line} {mutant.operator}: {was} -> {now}")
    return verdict


def _tests_of(module: str) -> list[str]:
    """The test files that bear the module's name, or stand in its room and import it.

    Where there are none: those that import it, and all of its room.
    """
    name = module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    room, last = module.split("/")[1], name.rpartition(".")[2]
    files = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    named = {file for file in files if _is_named_for(last, file.stem.removeprefix("test_"))}
    importing = {file for file in files if name in _imported(ROOT / "tests" / file)}
    at_home = {file for file in files if file.parts[0] == room}
    if at_home:
        named &= at_home
    chosen = named | (importing & at_home) or importing | at_home
    return [f"tests/{file}" for file in sorted(chosen)]


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


def _fast_tests(checkout: Path, tests: list[str]) -> dict[str, float]:
    """Those that pass and are fast, quickest first; their modules are compiled on the way."""
    plugin = Fast()
    said = checkout / "home" / "said.json"

    def run() -> int:
        options = [option for option in _OPTIONS if option != "-x"]
        code = pytest.main([*options, *tests], plugins=[plugin])
        said.write_text(json.dumps([plugin.durations_s, plugin.failed]))
        return int(code)

    said.unlink(missing_ok=True)
    _forked(checkout, run, limit_s=_BASELINE_LIMIT_S, compiles=True)
    durations_s, failed = json.loads(said.read_text()) if said.exists() else ({}, [])
    quickest = sorted(durations_s.items(), key=lambda each: each[1])
    return {test: s for test, s in quickest if s < _FAST_TEST_S and test not in failed}


def _pass(checkout: Path, fast: dict[str, float]) -> bool:
    files = list(dict.fromkeys(test.partition("::")[0] for test in fast))

    def run() -> int:
        return int(pytest.main([*_OPTIONS, *files], plugins=[Fast(frozenset(fast))]))

    return _forked(checkout, run, limit_s=_MUTANT_LIMIT_S) == 0


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
