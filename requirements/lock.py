"""Writes the hashed requirement files; `--check` only says whether they are stale.

    all.txt      everything that a checkout needs: both sides and the development tools
    control.txt  the control side alone
    pods.txt     the pod image alone
    vllm.txt     the image in which vLLM serves
    uv.txt       uv itself, for the first step of an installation

all.txt is solved first, within floors.txt, and constrains the others, so that one package has one
version everywhere; but vllm.txt, since vLLM wants other versions of what the trainer has.
No file names an index address. Run as: `python requirements/lock.py UV [--upgrade]`, or `--check`.
"""

import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
PYPROJECT = FOLDER.parent / "pyproject.toml"
NAMES = ("all.txt", "control.txt", "pods.txt", "uv.txt", "vllm.txt")
COMPILE = (
    *("pip", "compile", "--quiet", "--universal", "--generate-hashes"),
    *("--no-header", "--no-annotate"),
)
_PYTHON = ("--python-version", "3.11")
_PYTHON_OF_THE_IMAGE = ("--python-version", "3.12")


def stale_locks(pyproject: Path, folder: Path) -> list[str]:
    """The names of the locks that were not written for these dependency tables."""
    header = _header(tomllib.loads(pyproject.read_text()))
    locks = {name: folder / name for name in NAMES}
    return [
        name
        for name, path in locks.items()
        if not path.exists() or not path.read_text().startswith(header)
    ]


def write_locks(uv: str, *, upgrade: bool) -> None:
    """Solve pyproject.toml anew; pins that still fit are kept unless `upgrade`."""
    project = tomllib.loads(PYPROJECT.read_text())
    header = _header(project)
    pods = "\n".join(project["project"]["optional-dependencies"]["pods"])
    extras = ("--upgrade",) if upgrade else ()
    everything = ("--constraints", str(FOLDER / "all.txt"))
    vllm = "\n".join(project["dependency-groups"]["vllm"])
    source = str(PYPROJECT)
    floors = ("--constraints", str(FOLDER / "floors.txt"))
    wanted = (source, "--extra=pods", "--group=dev", *floors, *extras, *_PYTHON)
    _compile(uv, "all.txt", header, wanted)
    _compile(uv, "control.txt", header, (source, *everything, *_PYTHON))
    _compile(uv, "pods.txt", header, ("-", *everything, *_PYTHON), stdin=pods)
    _compile(uv, "uv.txt", header, ("-", *everything, *_PYTHON), stdin="uv")
    alone = ("-", *floors, *extras, *_PYTHON_OF_THE_IMAGE)
    _compile(uv, "vllm.txt", header, alone, stdin=vllm)


def _compile(uv: str, name: str, header: str, arguments: Sequence[str], *, stdin: str = "") -> None:
    target = FOLDER / name
    command = (uv, *COMPILE, "--output-file", str(target), *arguments)
    subprocess.run(command, input=stdin, text=True, check=True, stdout=subprocess.DEVNULL)
    target.write_text(header + target.read_text().removeprefix(header))


def _header(project: dict[str, Any]) -> str:
    tables = {
        "python": project["project"]["requires-python"],
        "control": project["project"]["dependencies"],
        "pods": project["project"]["optional-dependencies"],
        "groups": project["dependency-groups"],
    }
    digest = hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
    return f"# Written by `make lock` from pyproject.toml, dependency tables sha256:{digest}\n"


def main(arguments: Sequence[str]) -> int:
    """Write the locks, or with `--check` return 1 when one is stale."""
    if "--check" not in arguments:
        write_locks(arguments[0], upgrade="--upgrade" in arguments)
        return 0
    stale = stale_locks(PYPROJECT, FOLDER)
    if stale:
        sys.stderr.write(
            f"the locks should follow pyproject.toml; {', '.join(stale)} in requirements/ "
            "were written for other dependency tables; run `make lock` and commit the result\n"
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
