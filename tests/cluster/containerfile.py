"""Images built from a Containerfile, on a base of the tests' own registry."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def build_and_push(
    name: str,
    context: Path,
    *,
    containerfile: Path,
    arguments: Mapping[str, str],
    volumes: Sequence[str] = (),
    storage: Path,
) -> None:
    """Build `containerfile` in `context` and push it as `name`; `storage` keeps steps for reuse."""
    buildah = [
        "buildah",
        f"--root={storage / 'root'}",
        f"--runroot={storage / 'run'}",
        "--storage-driver=overlay",
    ]
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    mounted = [f"--volume={volume}" for volume in volumes]
    # No runtime and no network of its own: chroot does with what this machine has.
    options = ["--isolation=chroot", "--layers", "--tls-verify=false", f"--tag={name}"]
    _run(*buildah, "build", *options, *given, *mounted, f"--file={containerfile}", context)
    _run(*buildah, "push", "--tls-verify=false", "--disable-compression", name)


def _run(*command: str | Path) -> None:
    answer = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if answer.returncode != 0:
        words = " ".join(map(str, command))
        raise RuntimeError(f"{words} should succeed, but said:\n{answer.stdout[-4000:]}")
