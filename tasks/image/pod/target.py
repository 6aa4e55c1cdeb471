"""The folder that gets an image's files, and what it remembers of the image.

A folder that is absent or empty appears complete, by one rename. A mount point cannot be renamed,
and a folder with files of others must keep them: there, entries move in one by one, and the marker,
written last, says that all are in.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.contract.removal import remove_tree
from tasks.image.pod.layout import locked

MARKER = ".kaitoflow-image"


@dataclass(frozen=True)
class Marker:
    """Which image a folder holds, and the names it brought."""

    reference: str
    digest: str
    entries: tuple[str, ...]


def read_marker(target: Path) -> Marker | None:
    """What the folder was filled with; None = never to the end."""
    try:
        content = json.loads((target / MARKER).read_bytes())
        return Marker(content["reference"], content["digest"], tuple(content["entries"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """An empty folder on the target's file system; gone afterwards. One user at a time."""
    if not target.is_mount():
        target.parent.mkdir(parents=True, exist_ok=True)
    base = target if target.is_mount() else target.parent
    staging = base / f".{target.name}.incoming"
    with locked(base):
        remove_tree(staging)
        staging.mkdir()
        try:
            yield staging
        finally:
            remove_tree(staging)


def install(files: Path, target: Path, *, reference: str, digest: str) -> None:
    """Let `target` hold what is in `files`, in place of what an older image brought."""
    _remove(files / MARKER)  # the name is ours, whatever the image has there
    marker = Marker(reference, digest, tuple(sorted(path.name for path in files.iterdir())))
    (files / MARKER).write_text(json.dumps(asdict(marker)))
    files.chmod(0o755)  # whatever the umask: servers run as other users
    if not target.is_mount() and (not target.exists() or not any(target.iterdir())):
        files.rename(target)
        return
    old = read_marker(target)
    (target / MARKER).unlink(missing_ok=True)
    for name in {*(old.entries if old else ()), *marker.entries}:
        _remove(target / name)
    for name in (*marker.entries, MARKER):
        (files / name).rename(target / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
