"""A URL's bytes on the disk: resumed where they broke off, never more than allowed, never mixed.

Beside `NAME` lies `NAME.note`, what is known of it (address, validators, digest); until it is
whole, the file is `NAME.part`. A finished file is used again without asking the server, unless it
was marked stale: then the server is asked whether it has changed.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx2

from tasks.contract.errors import DatasetUnreachable, DiskFull, DownloadFailed, KaitoflowError
from tasks.dataset.pod.progress import Progress
from tasks.remote import file_server, guard
from tasks.remote.file_server import (
    Interrupted,
    answer,
    check_status,
    shown,
    total_bytes,
    unreachable,
)

log = logging.getLogger(__name__)

# So much gained since the last fault, and the count of faults starts again.
GAIN_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download is tried.

    absent_attempts: for faults that look like nobody is there (refused, name not found).
    begins_within_s: until a body begins, whatever the server sends before it.
    slow_window_s, slow_window_bytes: fewer bytes than that in such a time count as a stall.
    rate_after_s, least_bytes_per_s: from then on an attempt as a whole must have been that fast.
    """

    attempts: int = 6
    absent_attempts: int = 3
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    begins_within_s: float = file_server.BEGINS_WITHIN_S
    slow_window_s: float = 60.0
    slow_window_bytes: int = 16 * 1024
    rate_after_s: float = 600.0
    least_bytes_per_s: int = 16 * 1024


@dataclass(frozen=True)
class Fetched:
    """A whole file on the disk."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What is known of a file: whose bytes, which version, and once whole, their digest."""

    url_sha256: str
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None
    sha256: str | None = None
    stale: bool = False

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else the date."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


def open_client(
    *,
    allow_local_addresses: bool,
    patience: Patience = Patience(),
    resolve: guard.Resolver = guard.system_addresses,
) -> httpx2.Client:
    """A client for downloads that waits as long as the patience says."""
    return file_server.open_client(
        allow_local_addresses=allow_local_addresses,
        connect_timeout_s=patience.connect_timeout_s,
        read_timeout_s=patience.read_timeout_s,
        resolve=resolve,
    )


def download(
    client: httpx2.Client,
    url: str,
    *,
    path: Path,
    max_bytes: int,
    patience: Patience = Patience(),
    progress: Progress | None = None,
) -> Fetched:
    """The URL's bytes at `path`, fetched unless they are there already.

    Raises: DatasetUnreachable: absent, forbidden, too large. DownloadFailed: the network kept
        breaking. DiskFull: no room; what arrived so far is kept for the next time.
    """
    ready = _finished(url, path)
    if ready:
        log.info("download reused file=%s bytes=%d", path.name, ready.bytes)
        return ready
    faults = 0
    while True:
        before = _size(_part(path))
        try:
            return _attempt(client, url, path, max_bytes, patience, progress or Progress())
        except Interrupted as fault:
            faults = 1 if _size(_part(path)) >= before + GAIN_BYTES else faults + 1
            if faults >= (patience.absent_attempts if fault.absent else patience.attempts):
                raise _given_up(url, fault) from fault
            wait_s = min(patience.first_wait_s * 2 ** (faults - 1), patience.longest_wait_s)
            wait_s = min(max(wait_s, fault.wait_s), patience.longest_wait_s)
            log.warning("download broke file=%s wait_s=%.1f fault=%s", path.name, wait_s, fault)
            time.sleep(wait_s)


def mark_stale(path: Path) -> None:
    """Let the next download ask the server whether a finished file has changed."""
    note = _read_note(path)
    if note:
        _write_note(path, replace(note, stale=True))


def file_sha256(path: Path) -> str:
    """The hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Turn a full disk, quota or file limit into DiskFull with the file's name and room left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise _disk_full(path, "no space is left") from error


def _disk_full(path: Path, found: str) -> DiskFull:
    free_mib = shutil.disk_usage(path.parent).free // 2**20
    return DiskFull(
        f"cannot write {path}",
        f"{found} ({free_mib} MiB free)",
        "free some space or give the data volume more",
    )


def _finished(url: str, path: Path) -> Fetched | None:
    note = _read_note(path)
    if not note or note.stale or note.url_sha256 != _url_sha256(url) or not path.exists():
        return None
    if note.sha256 is None or file_sha256(path) != note.sha256:
        return None
    return Fetched(path, _size(path), note.sha256)


def _attempt(
    client: httpx2.Client,
    url: str,
    path: Path,
    max_bytes: int,
    patience: Patience,
    progress: Progress,
) -> Fetched:
    part, note = _part(path), _read_note(path)
    if note is None or note.url_sha256 != _url_sha256(url):
        note = _Note(url_sha256=_url_sha256(url))
        part.unlink(missing_ok=True)
    if part.exists() and _size(part) == note.total:
        return _finish(path, note)
    with answer(
        client, url, _conditions(note, path), begins_within_s=patience.begins_within_s
    ) as response:
        if response.status_code == 304 and note.sha256 and path.exists():
            _write_note(path, replace(note, stale=False))
            return Fetched(path, _size(path), note.sha256)
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise Interrupted("the file became shorter than the part fetched before")
        check_status(url, response)
        offset = _resumed_at(response, note, part)
        total = total_bytes(response)
        _check_room(url, part, offset=offset, total=total, max_bytes=max_bytes)
        note = _Note(
            url_sha256=note.url_sha256,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
            total=total,
        )
        with disk_full_explained(part):
            _write_note(path, note)
            _receive(url, response, part, offset, max_bytes, patience, progress)
    return _finish(path, note)


def _conditions(note: _Note, path: Path) -> dict[str, str]:
    """Ask for the missing rest, or only for what has changed, or (no headers) for everything."""
    if note.stale and note.sha256 and path.exists():
        asked = {"If-None-Match": note.etag, "If-Modified-Since": note.last_modified}
        return {name: value for name, value in asked.items() if value}
    have = _size(_part(path))
    if have and note.validator:
        return {"Range": f"bytes={have}-", "If-Range": note.validator}
    return {}


def _resumed_at(response: httpx2.Response, note: _Note, part: Path) -> int:
    """Where in the file the body starts: at the end of what we have, or at 0."""
    if response.status_code == 200:
        return 0
    have = _size(part)
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    answered = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
    known = (note.etag, note.last_modified)
    told_apart = [(new, old) for new, old in zip(answered, known, strict=True) if new is not None]
    # An answer that names no version may be of any.
    same_version = bool(told_apart) and all(new == old for new, old in told_apart)
    if (
        start
        and int(start[1]) == have
        and same_version
        and note.total in (None, total_bytes(response))
    ):
        return have
    part.unlink(missing_ok=True)
    raise Interrupted("the server answered with a part of another version")


def _check_room(url: str, part: Path, *, offset: int, total: int | None, max_bytes: int) -> None:
    if total is None:
        return
    if total > max_bytes:
        raise _too_large(url, total, max_bytes)
    free = shutil.disk_usage(part.parent).free
    if total - offset > free + _size(part) - offset:
        raise _disk_full(part, f"{total // 2**20} MiB are needed")


def _receive(
    url: str,
    response: httpx2.Response,
    part: Path,
    offset: int,
    max_bytes: int,
    patience: Patience,
    progress: Progress,
) -> None:
    size, total = offset, total_bytes(response)
    started_s = time.monotonic()
    window_end_s, window_size = started_s + patience.slow_window_s, size
    with part.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        for piece in response.iter_raw():
            file.write(piece)
            size += len(piece)
            progress.tell(phase="download", file=part.stem, bytes=size, total=total)
            if size > max_bytes:
                break
            if time.monotonic() < window_end_s:
                continue
            elapsed_s = time.monotonic() - started_s
            drips = elapsed_s > patience.rate_after_s and (
                size - offset < elapsed_s * patience.least_bytes_per_s
            )
            if drips or size - window_size < patience.slow_window_bytes:
                raise Interrupted("the server sends too slowly")
            window_end_s, window_size = time.monotonic() + patience.slow_window_s, size
    if size > max_bytes:
        part.unlink()
        raise _too_large(url, size, max_bytes)
    if total is not None and size != total:
        raise Interrupted(f"the body ended after {size} of {total} bytes")


def _finish(path: Path, note: _Note) -> Fetched:
    part = _part(path)
    digest, size = file_sha256(part), _size(part)
    os.replace(part, path)
    _write_note(path, replace(note, sha256=digest, total=size))
    log.info("download finished file=%s bytes=%d sha256=%s", path.name, size, digest)
    return Fetched(path, size, digest)


def _too_large(url: str, size: int, max_bytes: int) -> DatasetUnreachable:
    return unreachable(
        url,
        f"it has at least {size} bytes, more than the {max_bytes} bytes a dataset may have here",
        "use fewer or smaller files",
    )


def _unused_proxy() -> str:
    """A hint where the environment names a proxy: behind one, addresses could not be checked."""
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    named = next((name for name in names if os.environ.get(name)), None)
    return f" ({named} is set; datasets are fetched without a proxy)" if named else ""


def _given_up(url: str, fault: Interrupted) -> KaitoflowError:
    if fault.absent:
        fix = "check the spelling of the address and that the server runs" + _unused_proxy()
        return unreachable(url, str(fault), fix)
    return DownloadFailed(
        f"cannot fetch {shown(url)}",
        f"{fault}, and it kept happening",
        "try again later",
    )


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _note_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.note")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _url_sha256(url: str) -> str:
    # The address may hold a secret, which does not belong on the disk.
    return hashlib.sha256(url.encode()).hexdigest()


def _read_note(path: Path) -> _Note | None:
    try:
        return _Note(**json.loads(_note_path(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write_note(path: Path, note: _Note) -> None:
    target = _note_path(path)
    draft = target.with_name(f"{target.name}.tmp")
    draft.write_text(json.dumps(asdict(note)))
    os.replace(draft, target)
