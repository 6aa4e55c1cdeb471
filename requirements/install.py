"""Sets up this checkout: uv in .tools/, then every locked package in .venv/. Run by `make setup`.

Standard library only, since nothing is installed yet; any Python from 3.9 will do, as uv looks for
(or fetches) the 3.11 to 3.13 that the project runs on. Doing it again costs nothing while
the locks stay the same. A stamp is removed first and written last, so that an installation that
was interrupted is made anew, from uv's cache, instead of being trusted.

PyTorch comes in two builds for Linux. With an NVIDIA GPU the locked one is taken, with its CUDA
libraries. Without one, PyTorch's own index has a build without them; it is asked for by uv's name
for it and taken if it answers at once, else the locked build serves a CPU as well.
KAITOFLOW_TORCH=cpu or =cuda decides by hand.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "all.txt"
UV_LOCK = ROOT / "requirements" / "uv.txt"
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
UV = TOOLS / "bin" / "uv"
PYTHON_RANGE = ">=3.11,<3.14"
# What only the CUDA build of PyTorch needs.
CUDA_ONLY = re.compile(r"^(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==")
# pip's settings say where packages come from on machines with a mirror; uv has its own names.
UV_FOR_PIP = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
# What each build brings, measured on Linux x86-64 with Python 3.11.
DOWNLOAD_GB = {"cuda": 3.3, "cpu": 0.6}
DISK_GB = {"cuda": 7.0, "cpu": 2.5}


class SetupError(Exception):
    """What was asked, what was found, what to do."""


def set_up() -> None:
    """Leave .venv with exactly the locked packages and this project, editable."""
    choice = os.environ.get("KAITOFLOW_TORCH", "auto")
    stamp = VENV / ".kaitoflow-setup"
    wanted = fingerprint(LOCK, UV_LOCK, ROOT / "pyproject.toml", ROOT / "requirements/install.py")
    installed, old_build = stamp.read_text().split() if stamp.exists() else ("", "")
    if installed == wanted and choice in ("auto", old_build):
        return
    install_uv(TOOLS)
    if not installed:
        make_venv()
    build = torch_build(
        choice,
        system=sys.platform,
        has_gpu=has_nvidia_gpu(),
        cpu_build_answers=cpu_build_answers,
    )
    if installed and build != old_build:
        make_venv()  # either build satisfies the other's pin, so it would stay
    stamp.unlink(missing_ok=True)
    install_packages(build)
    uv("pip", "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(f"{wanted} {build}")


def fingerprint(*files: Path) -> str:
    """A digest of these files and of where the checkout lies: a moved .venv does not work."""
    digest = hashlib.sha256(str(ROOT).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def install_uv(tools: Path) -> None:
    """Have the locked uv in `tools`, by venv where Python has it, else by pip alone."""
    stamp = tools / ".lock"
    wanted = UV_LOCK.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say("uv into .tools: about 18 MB to download")
    shutil.rmtree(tools, ignore_errors=True)
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-input")
    hashed = ("--require-hashes", "--only-binary=:all:", "--requirement", str(UV_LOCK))
    if succeeds(sys.executable, "-m", "venv", str(tools)):
        run(str(tools / "bin" / "python"), "-m", "pip", *install, *hashed)
    elif succeeds(sys.executable, "-m", "pip", "--version"):
        shutil.rmtree(tools, ignore_errors=True)
        # A machine may ask pip for user or venv installations, which --target excludes.
        alone = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
        target = ("--target", str(tools))
        run(sys.executable, "-m", "pip", *install, *target, *hashed, environment=alone)
    else:
        raise SetupError(
            f"setup needs pip or venv to install uv; {sys.executable} has neither; install them "
            "(Debian and Ubuntu: `sudo apt-get install python3-venv`) and run the same again"
        )
    stamp.write_text(wanted)


def make_venv() -> None:
    """An empty .venv on the first suitable Python; an unfinished one is replaced."""
    if not succeeds(str(UV), "python", "find", "--no-python-downloads", PYTHON_RANGE):
        say("there is no Python 3.11, 3.12 or 3.13 here; uv fetches one (about 35 MB)")
    uv("venv", "--quiet", "--clear", "--no-project", "--python", PYTHON_RANGE, str(VENV))


def torch_build(
    choice: str, *, system: str, has_gpu: bool, cpu_build_answers: Callable[[], bool]
) -> str:
    """`cpu` or `cuda`: which build of PyTorch is wanted and can be had.

    Elsewhere than on Linux the locked build, here `cuda`, brings no CUDA libraries.
    """
    if choice in ("cpu", "cuda"):
        return choice
    if choice != "auto":
        raise SetupError(
            f"KAITOFLOW_TORCH says which build of PyTorch to install; found {choice!r}; "
            "set it to cpu, cuda or auto"
        )
    if system != "linux" or has_gpu:
        return "cuda"
    if cpu_build_answers():
        return "cpu"
    say(
        "no NVIDIA GPU, and PyTorch's CPU index does not answer: taking the locked build, "
        "whose 3 GB of NVIDIA libraries will not be used"
    )
    return "cuda"


def has_nvidia_gpu(proc: Path = Path("/proc/driver/nvidia/gpus")) -> bool:
    """Whether the kernel driver or nvidia-smi names at least one GPU."""
    if proc.is_dir() and any(proc.iterdir()):
        return True
    return shutil.which("nvidia-smi") is not None and succeeds("nvidia-smi", "-L")


def cpu_build_answers() -> bool:
    """Whether PyTorch's CPU index offers the locked version, within a few seconds."""
    hurried = {**uv_environment(os.environ), "UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
    ask = ("pip", "install", "--dry-run", "--no-deps", "--torch-backend", "cpu")
    target = ("--python", str(VENV))
    torch = cpu_pin(LOCK.read_text())
    return succeeds(str(UV), *ask, *target, torch, environment=hurried, timeout_s=15)


def install_packages(build: str) -> None:
    """Make .venv hold exactly the lock; the CPU build stands in for torch and its CUDA parts."""
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < DISK_GB[build]:
        raise SetupError(
            f"setup needs about {DISK_GB[build]} GB of disk; {ROOT} has {free_gb:.1f} GB left; "
            "free some or put the checkout on another disk, and run the same again"
        )
    say(
        f"packages into .venv: about {DOWNLOAD_GB[build]} GB to download unless uv's cache has "
        f"them, {DISK_GB[build]} GB on disk"
    )
    sync = ("pip", "sync", "--compile-bytecode", "--python", str(VENV))
    if build == "cuda":
        uv(*sync, "--require-hashes", str(LOCK))
        return
    lock = LOCK.read_text()
    # PyTorch's index has other files than the lock knows, so this one package goes by its version.
    wanted = f"{without_cuda(lock)}{cpu_pin(lock)}\n"
    uv(*sync, "--torch-backend", "cpu", "-", stdin=wanted)


def cpu_pin(lock: str) -> str:
    """The CPU build of the PyTorch version that the lock pins."""
    found = re.search(r"^torch==[^\s;+]+", lock, re.MULTILINE)
    if found is None:
        raise SetupError(f"setup looked for torch in {LOCK}; it is not pinned; run `make lock`")
    return f"{found.group()}+cpu"


def without_cuda(lock: str) -> str:
    """The lock without PyTorch and the packages that only its CUDA build needs."""
    requirements = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    return "".join(part for part in requirements if not CUDA_ONLY.match(part))


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv: the user's, with pip's settings where uv has none of its own."""
    said = {UV_FOR_PIP[name]: value for name, value in environment.items() if name in UV_FOR_PIP}
    # Patience for wheels of several hundred megabytes over a slow line.
    return {"UV_HTTP_TIMEOUT": "300", **said, **environment}


def uv(*arguments: str, stdin: str | None = None) -> None:
    """Run uv and show what it says."""
    environment = uv_environment(os.environ)
    # The project's environment, whatever else is active in this shell.
    target = () if arguments[0] == "venv" or "--python" in arguments else ("--python", str(VENV))
    run(str(UV), *arguments, *target, environment=environment, stdin=stdin)


def run(
    *command: str, environment: Mapping[str, str] | None = None, stdin: str | None = None
) -> None:
    """Run a command in the checkout; it says itself what is wrong, this adds what to do."""
    try:
        subprocess.run(command, check=True, cwd=ROOT, env=environment, input=stdin, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"setup ran `{' '.join(command[:4])} ...`; it failed ({error_name(error)}), see above; "
            "check the network, or name your mirror in PIP_INDEX_URL or UV_DEFAULT_INDEX, "
            "and run the same again: what is downloaded is kept"
        ) from error


def error_name(error: OSError | subprocess.CalledProcessError) -> str:
    """`exit status N`, or what the system said."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"
    return str(error)


def succeeds(
    *command: str, environment: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> bool:
    """Whether a command can be run and exits with 0; what it says is not shown."""
    try:
        done = subprocess.run(
            command, env=environment, timeout=timeout_s, capture_output=True, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Set up, or say in one line why not."""
    if sys.version_info < (3, 9):  # noqa: UP036  (an older Python is what this line is for)
        say(f"setup needs Python 3.9 or newer; this is {platform.python_version()}; install one")
        return 1
    try:
        set_up()
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("stopped; run the same again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
