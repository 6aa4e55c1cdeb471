"""Images built from a Containerfile, on a base of the tests' own registry."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The fastest that a node reads: half the bytes, at the speed of the disk.
_COMPRESSION = ("--compression-format=zstd", "--compression-level=1")


@dataclass(frozen=True)
class Builder:
    """A buildah that keeps its layers in `storage`."""

    storage: Path

    def build_and_push(
        self,
        name: str,
        context: Path,
        *,
        containerfile: Path,
        arguments: Mapping[str, str],
        volumes: Sequence[str] = (),
    ) -> None:
        """Build `containerfile` in `context` and push it as `name`; what it is built on is kept."""
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        mounted = [f"--volume={volume}" for volume in volumes]
        # No runtime and no network of its own: chroot does with what this machine has.
        options = ["--isolation=chroot", "--layers", "--tls-verify=false", f"--tag={name}"]
        self._run("build", *options, *given, *mounted, f"--file={containerfile}", context)
        self._run("push", "--tls-verify=false", *_COMPRESSION, name)

    def forget(self) -> None:
        """Remove all layers: what was pushed lies in the registry, at half the size."""
        if self.storage.exists():
            # The driver leaves the folder of its layers mounted on itself.
            mounted = self.storage / "root" / "overlay"
            subprocess.run(["umount", mounted], stderr=subprocess.DEVNULL, check=False)
            shutil.rmtree(self.storage)

    def _run(self, *command: str | Path) -> None:
        places = [f"--root={self.storage / 'root'}", f"--runroot={self.storage / 'run'}"]
        answer = subprocess.run(
            ["buildah", *places, "--storage-driver=overlay", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            words = " ".join(map(str, command))
            raise RuntimeError(
                f"buildah {words} should succeed, but said:\n{answer.stdout[-4000:]}"
            )


@contextmanager
def running_builder(storage: Path) -> Iterator[Builder]:
    """A builder whose layers are removed at the end, and were before, whatever was left."""
    builder = Builder(storage)
    builder.forget()
    try:
        yield builder
    finally:
        builder.forget()
