"""Image layers become files, with nothing trusted that a layer says.

Only what lies under data/ is written. Members that point outside, devices and pipes are refused,
and so are archives that grow out of bounds. Writing never follows a link, so a link can only be bad
in what it shows at the end, and that is checked when all layers are in.
"""

import gzip
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from tasks.contract.errors import ImageUnreadable
from tasks.contract.removal import remove_tree

_FOLDER = "data"
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_MAX_BYTES = 2**27  # what zstd itself takes without being asked for more
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Limits:
    """What an image may grow to, all layers together.

    growth: expanded over packed bytes, looked at beyond growth_from_bytes. Text shrinks to a tenth;
    what shrinks to a five-hundredth was made to fill a disk.
    depth, name_bytes: of folders, and of one name in them; a file system ends at 255 and 4,096 in
    all, and who removes the folder later may walk it by recursion.
    """

    entries: int = 1_000_000
    depth: int = 64
    name_bytes: int = 255
    path_bytes: int = 2048
    expanded_bytes: int = 200 * 2**30
    growth: int = 500
    growth_from_bytes: int = 2**28


class Unpacker:
    """Puts one image's layers, from the lowest to the highest, into an empty folder."""

    def __init__(self, image: str, into: Path, *, limits: Limits | None = None) -> None:
        self._image = image
        self._into = into
        self._limits = limits or Limits()
        self._packed_bytes = 0
        self._expanded_bytes = 0
        self._entries = 0
        self._outside: set[str] = set()

    def add_layer(self, layer: Path) -> None:
        """Apply one layer: plain tar, or tar in gzip or zstd, told by its first bytes.

        Raises: ImageUnreadable: damaged, unsafe or too large.
        """
        self._packed_bytes += layer.stat().st_size
        try:
            with _expanded(layer) as stream:
                # Whiteouts speak of the layers below: what this one adds is safe from them.
                added: set[str] = set()
                with tarfile.open(fileobj=_Metered(stream, self._meter), mode="r|") as archive:
                    for member in archive:
                        self._add(archive, member, added)
        except (tarfile.TarError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile, EOFError) as e:
            raise self._bad(f"a layer is damaged ({e})", "push the image again") from e

    def add_file(self, content: Path, name: str) -> None:
        """Put one plain file, a layer of its own, where an archive would have it under data/.

        Raises: ImageUnreadable: its name is unsafe, or it is too large.
        """
        self._packed_bytes += content.stat().st_size
        self._meter(content.stat().st_size)
        self._count_entry()
        path = self._into / self._safe_name(name).removeprefix(f"{_FOLDER}/")
        if path == self._into:
            raise self._bad(f"a file is called {name!r:.100}", "give it a name")
        self._make_folder(path.parent)
        _remove(path)
        shutil.copyfile(content, path)

    def finish(self) -> None:
        """Check what only all layers together show: links, and that there is something at all."""
        for path in self._into.rglob("*"):
            if path.is_symlink() and not _stays_inside(path, self._into):
                raise self._bad(
                    f'the link "{path.relative_to(self._into)}" leads out of /data',
                    "put the file itself there",
                )
        if not any(self._into.iterdir()):
            found = ", ".join(sorted(self._outside)[:10]) or "nothing"
            raise self._bad(
                f"it has nothing under /data (found: {found})",
                "build the image with files in /data",
            )

    def _meter(self, count_bytes: int) -> None:
        self._expanded_bytes += count_bytes
        limits = self._limits
        if self._expanded_bytes > limits.expanded_bytes:
            raise self._bad(f"it expands to over {limits.expanded_bytes} bytes", "make it smaller")
        grown = self._expanded_bytes > limits.growth * self._packed_bytes
        if grown and self._expanded_bytes > limits.growth_from_bytes:
            raise self._bad(
                f"it expands to over {limits.growth} times its size", "use an image you trust"
            )

    def _count_entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self._bad(f"it has over {self._limits.entries} files", "put them into archives")

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, added: set[str]) -> None:
        self._count_entry()
        name = self._safe_name(member.name)
        folder, _, last = name.rpartition("/")
        if last.startswith(_WHITEOUT):
            self._white_out(folder, last, added)
            return
        if name != _FOLDER and not name.startswith(f"{_FOLDER}/"):
            self._outside.add(name.partition("/")[0])
            return
        added.add(name)
        path = self._path(name)
        if member.isdir():
            self._make_folder(path)
            return
        if name == _FOLDER:
            raise self._bad("its /data is no folder", "build the image with files in /data")
        self._make_folder(path.parent)
        _remove(path)
        self._write(archive, member, path)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        if member.isreg() and not member.issparse():
            source = archive.extractfile(member)
            assert source is not None  # a regular member always has a body
            with source, path.open("xb") as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
        elif member.issym():
            if not member.linkname or len(member.linkname) > self._limits.path_bytes:
                raise self._bad(f'the link "{member.name}" leads nowhere', "build the image again")
            if member.linkname.startswith("/"):
                raise self._bad(
                    f'the link "{member.name}" leads to "{member.linkname}", an absolute path',
                    "put the file itself there",
                )
            path.symlink_to(member.linkname)
        elif member.islnk():
            self._copy_link(member, path)
        else:
            raise self._bad(
                f'"{member.name}" is neither a plain file nor a folder nor a link',
                "leave devices, pipes and sparse files out of the image",
            )

    def _copy_link(self, member: tarfile.TarInfo, path: Path) -> None:
        name = self._safe_name(member.linkname)
        target = self._path(name)
        inside = name.startswith(f"{_FOLDER}/") and self._has_real_parents(target)
        if not inside or target.is_symlink() or not target.is_file():
            raise self._bad(
                f'the hard link "{member.name}" leads to "{member.linkname}", no file under /data',
                "put the file itself there",
            )
        path.hardlink_to(target)

    def _white_out(self, folder: str, last: str, added: set[str]) -> None:
        """Remove what lower layers had there: one entry, or all that a folder held."""
        opaque = last == _OPAQUE
        name = folder if opaque else f"{folder}/{last.removeprefix(_WHITEOUT)}".lstrip("/")
        is_root = opaque and not folder
        if name != _FOLDER and not name.startswith(f"{_FOLDER}/") and not is_root:
            return
        path = self._into if is_root else self._path(name)
        if not self._has_real_parents(path):
            return
        below = sorted(path.rglob("*"), reverse=True) if not path.is_symlink() else []
        hidden = below if opaque or path == self._into else [*below, path]
        for one in hidden:
            if f"{_FOLDER}/{one.relative_to(self._into)}" not in added:
                _remove_lower(one)

    def _safe_name(self, name: str) -> str:
        """The member's path without `./`; "" for the root itself."""
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise self._bad(f'a member is called "{name:.200}"', "use an image you trust")
        limits, sizes_bytes = self._limits, [len(os.fsencode(part)) for part in parts]
        if len(parts) > limits.depth or sum(sizes_bytes) + len(parts) > limits.path_bytes:
            found = (
                f"folders are nested over {limits.depth} deep, or {limits.path_bytes} bytes long"
            )
            raise self._bad(found, "put the files closer to /data")
        if max(sizes_bytes, default=0) > limits.name_bytes:
            raise self._bad(
                f'the name "{name:.60}..." is over {limits.name_bytes} bytes long', "shorten it"
            )
        return "/".join(parts)

    def _path(self, name: str) -> Path:
        return self._into / name.removeprefix(_FOLDER).lstrip("/")

    def _has_real_parents(self, path: Path) -> bool:
        """Whether the way from the target folder to `path` leads through no link."""
        parents = path.relative_to(self._into).parents
        return all((self._into / p).is_dir() and not (self._into / p).is_symlink() for p in parents)

    def _make_folder(self, path: Path) -> None:
        """Have real folders down to `path`; the file or link of a lower layer gives way."""
        for parent in [*reversed(path.relative_to(self._into).parents), path]:
            folder = self._into / parent
            if folder.is_symlink() or not folder.is_dir():
                _remove(folder)
                folder.mkdir()

    def _bad(self, found: str, fix: str) -> ImageUnreadable:
        return ImageUnreadable(
            f"the image {self._image} cannot be unpacked",
            f"{found}",
            f"{fix}",
        )


class _Metered(io.RawIOBase):
    """Reads on, and has each byte counted."""

    def __init__(self, stream: BinaryIO, meter: Callable[[int], None]) -> None:
        self._stream = stream
        self._meter = meter

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, counted."""
        chunk = self._stream.read(size)
        self._meter(len(chunk))
        return chunk


@contextmanager
def _expanded(layer: Path) -> Iterator[BinaryIO]:
    with layer.open("rb") as packed:
        magic = packed.read(4)
        packed.seek(0)
        if magic.startswith(_GZIP_MAGIC):
            with gzip.GzipFile(fileobj=packed) as stream:
                yield cast("BinaryIO", stream)
        elif magic == _ZSTD_MAGIC:
            unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX_BYTES)
            with unpacker.stream_reader(packed, read_across_frames=True) as stream:
                yield cast("BinaryIO", stream)
        else:
            yield packed


def _remove(path: Path) -> None:
    """Have nothing at `path`; a link goes, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_lower(path: Path) -> None:
    """Remove a file, a link or an emptied folder; one that the upper layer fills stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif not any(path.iterdir()):
        path.rmdir()


def _stays_inside(link: Path, folder: Path) -> bool:
    try:
        return link.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False
