"""An OCI image layout on disk: where images live when there is no registry.

Several images share one layout, each under its full name. Blobs are written aside and renamed,
index.json is replaced last, so a crash leaves either the image before or the image after. A writer
holds a lock on the folder; readers need none, as nothing they read is ever changed.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.contract.errors import ImageUnreadable
from tasks.contract.removal import remove_tree
from tasks.remote.layout_index import REF_NAME, find_manifest, named, read_entries
from tasks.remote.manifest import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    blob_path,
    descriptor,
    digest_of,
    encode,
)

_FILE_MODE = 0o644  # whatever the umask: containers of other users read the layout too
_MARKER = encode({"imageLayoutVersion": "1.0.0"})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for oneself; a process that dies lets go of it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Layout:
    """The images in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / ".incoming"

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A folder to write blobs in; one writer at a time, what a crashed one left is removed."""
        (self._folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        with locked(self._folder):
            remove_tree(self._incoming)
            self._incoming.mkdir()
            try:
                yield self._incoming
            finally:
                remove_tree(self._incoming)

    def add_file(self, written: Path, digest: str) -> None:
        """Take over a finished file as the blob `digest`; only while writing."""
        written.chmod(_FILE_MODE)
        _sync(written)
        written.replace(self.blob_path(digest))

    def add_bytes(self, content: bytes) -> None:
        """Keep `content` as a blob; only while writing."""
        self.add_file(self._write_aside(content), digest_of(content))

    def tag(self, reference: str, manifest: bytes) -> None:
        """Keep the manifest and let `reference` name it, whatever it named before."""
        self.add_bytes(manifest)
        entry = descriptor(MANIFEST_TYPE, digest_of(manifest), len(manifest))
        entry["annotations"] = {REF_NAME: reference}
        others = [old for old in read_entries(self._folder) if named(old) != reference]
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": sorted([*others, entry], key=named),
        }
        self._write_aside(_MARKER).replace(self._folder / "oci-layout")
        self._write_aside(encode(index)).replace(self._folder / "index.json")
        _sync(self._folder)

    def find(self, reference: str) -> str | None:
        """The digest of the manifest that `reference` names; None = it is not here.

        A name with a digest is here when that manifest is, whatever its tag names by now.
        """
        return find_manifest(self._folder, reference)

    def read_manifest(self, digest: str) -> bytes:
        """The manifest with this digest, checked."""
        path = self.blob_path(digest)
        content = path.read_bytes() if path.is_file() else b""
        if digest_of(content) != digest:
            raise _damaged(self._folder, digest)
        return content

    def have_blob(self, digest: str, size_bytes: int, aside: Path) -> Path:  # noqa: ARG002
        """The blob as a file of the layout, checked; `aside` is for sources that have to copy."""
        path = self.blob_path(digest)
        if not path.is_file() or path.stat().st_size != size_bytes or _digest_of(path) != digest:
            raise _damaged(self._folder, digest)
        return path

    def blob_path(self, digest: str) -> Path:
        """Where the blob lies, or would lie."""
        return self._folder / blob_path(digest)

    def _write_aside(self, content: bytes) -> Path:
        with tempfile.NamedTemporaryFile(dir=self._incoming, delete=False) as file:
            file.write(content)
        path = Path(file.name)
        path.chmod(_FILE_MODE)
        _sync(path)
        return path


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _sync(path: Path) -> None:
    """Have the disk hold it before anything points at it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(folder: Path, digest: str) -> ImageUnreadable:
    return ImageUnreadable(
        f"the image layout {folder} should hold the blob {digest}",
        "it is missing or damaged",
        "push the image again",
    )
