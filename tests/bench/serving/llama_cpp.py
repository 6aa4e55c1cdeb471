"""llama.cpp's own server, out of a package that carries it compiled, and how that is had.

Run as `python -m tests.bench.serving.llama_cpp GGUF PORT ROWS TOKENS`, with the package's folder on
PYTHONPATH. Its wheel computes with AVX2, whatever more the processor has.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from threading import Event

import uv

_PACKAGE, _VERSION = "xllamacpp", "2026.10.11549"
_SHA256 = "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261"
_FETCHED_WITHIN_S = 600


class NotHad(Exception):
    """The package cannot be had; says why."""


def fetch(folder: Path) -> str:
    """The package's version in a folder, which is filled (34 MB, by hash) when it has none.

    Raises: NotHad.
    """
    if not _found(folder):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.write(f"{_PACKAGE}=={_VERSION} --hash=sha256:{_SHA256}\n")
            listed.flush()
            _install(folder, Path(listed.name))
    return f"{_PACKAGE} {_found(folder)}"


def _found(folder: Path) -> str:
    [*found] = distributions(name=_PACKAGE, path=[str(folder)])
    return found[0].version if found else ""


def _install(folder: Path, listed: Path) -> None:
    wheels_only = ("--no-deps", "--only-binary", ":all:", "--require-hashes")
    command = [uv.find_uv_bin(), "pip", "install", "--python", sys.executable, *wheels_only]
    command += ["--target", str(folder), "-r", str(listed)]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_FETCHED_WITHIN_S
        )
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-200:]
        raise NotHad(f"{_PACKAGE} {_VERSION} cannot be installed: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise NotHad(f"{_PACKAGE} did not arrive within {_FETCHED_WITHIN_S} s") from error


def main(file: Path, port: int, rows: int, tokens: int) -> None:
    """Serve until told to stop: so many rows at once, which share a cache of so many tokens."""
    import xllamacpp  # type: ignore[import-not-found]  # of the folder alone

    threads = len(os.sched_getaffinity(0))
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.port = port
    params.n_parallel = rows
    params.n_ctx = tokens
    params.kv_unified = True  # else a row has its share of the tokens, and no more
    params.cache_ram_mib = 0  # by itself it keeps up to 8 GiB of prompts beside
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    Event().wait()
    del server


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
