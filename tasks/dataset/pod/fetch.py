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
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpcore2
import httpx2

from tasks.contract.errors import DatasetUnreachable, DiskFull, DownloadFailed, KaitoflowError
from tasks.dataset.pod.progress import Progress
from tasks.remote import guard

log = logging.getLogger(__name__)

MAX_REDIRECTS = 10
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# So much gained since the last fault, and the count of faults starts again.
GAIN_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download is tried.

    absent_attempts: for faults that look like nobody is there (refused, name not found).
    slow_window_s, slow_window_bytes: fewer bytes than that in such a time count as a stall.
    """

    attempts: int = 6
    absent_attempts: int = 3
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    slow_window_s: float = 60.0
    slow_window_bytes: int = 16 * 1024


@dataclass(frozen=True)
class Fetched:
    """A whole file on the disk."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class UrlProbe:
    """What a server says about a file before it is fetched; None = it does not say."""

    bytes: int | None
    content_type: str | None


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


class _Interrupted(Exception):
    """A fault that trying again may cure; `absent`: nobody seems to be there."""

    def __init__(self, found: str, *, absent: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(found)
        self.absent = absent
        self.wait_s = wait_s


def open_client(
    *,
    allow_local_addresses: bool,
    patience: Patience = Patience(),
    resolve: guard.Resolver = guard.system_addresses,
) -> httpx2.Client:
    """An HTTP client that connects to allowed addresses only and follows no redirect by itself.

    SSL_CERT_FILE and SSL_CERT_DIR count, proxy variables and ~/.netrc do not.
    """
    backend = guard.GuardedBackend(allow_local_addresses=allow_local_addresses, resolve=resolve)
    return httpx2.Client(
        transport=guard.GuardedTransport(backend, tls=httpx2.create_ssl_context()),
        timeout=httpx2.Timeout(patience.read_timeout_s, connect=patience.connect_timeout_s),
        trust_env=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "kaitoflow"},
    )


def shown(url: str) -> str:
    """The URL without what may be secret: user, password, query and fragment."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return url.partition("?")[0].rpartition("@")[2]
    return str(parsed.copy_with(username=None, password=None, query=None, fragment=None))


def probe(url: str, *, allow_local_addresses: bool) -> UrlProbe:
    """What the server says of the file, without its body; asked once.

    Raises: DatasetUnreachable: absent or not allowed. DownloadFailed: a fault that may pass, or
        nobody there: one look tells neither from a fault of the way to it.
    """
    with open_client(allow_local_addresses=allow_local_addresses) as client:
        try:
            with _answer(client, url, {}) as response:
                _check_status(url, response)
                return UrlProbe(_total(response), response.headers.get("Content-Type"))
        except _Interrupted as fault:
            raise DownloadFailed(
                f"cannot reach {shown(url)}",
                f"{fault}",
                "check the address, and try again",
            ) from fault


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
        except _Interrupted as fault:
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
    with _answer(client, url, _conditions(note, path)) as response:
        if response.status_code == 304 and note.sha256 and path.exists():
            _write_note(path, replace(note, stale=False))
            return Fetched(path, _size(path), note.sha256)
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise _Interrupted("the file became shorter than the part fetched before")
        _check_status(url, response)
        offset = _resumed_at(response, note, part)
        total = _total(response)
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


@contextmanager
def _answer(
    client: httpx2.Client, url: str, headers: Mapping[str, str]
) -> Iterator[httpx2.Response]:
    """The answer at the end of the redirects, its body unread; network faults are told apart."""
    with _network_faults(url):
        response = client.send(_request(client, url, headers), stream=True)
        try:
            for _ in range(MAX_REDIRECTS):
                if not response.has_redirect_location:
                    break
                response.close()
                response = client.send(_redirected(url, response), stream=True)
            yield response
        finally:
            response.close()


def _request(client: httpx2.Client, url: str, headers: Mapping[str, str]) -> httpx2.Request:
    try:
        request = client.build_request("GET", url, headers=headers)
    except httpx2.InvalidURL as error:
        raise _unreachable(
            url, f"the address cannot be read ({error})", "correct the address"
        ) from error
    if request.url.scheme not in ("http", "https") or not request.url.host:
        raise _unreachable(url, "it is no http or https address", "use an http or https address")
    return request


def _redirected(url: str, response: httpx2.Response) -> httpx2.Request:
    request = response.next_request
    if request is None or request.url.scheme not in ("http", "https"):
        scheme = response.headers.get("Location", "").partition(":")[0][:20]
        raise _unreachable(
            url,
            f"the server redirects to an address that is not http or https ({scheme}:)",
            "use the address of the file itself",
        )
    return request


@contextmanager
def _network_faults(url: str) -> Iterator[None]:
    try:
        yield
    except socket.gaierror as error:
        host = httpx2.URL(url).host
        raise _Interrupted(f"a host name was not found ({host})", absent=True) from error
    except httpcore2.TimeoutException as error:
        raise _Interrupted("the server did not answer in time") from error
    except httpcore2.ConnectError as error:
        # The pool drops __cause__; the fault itself is the only argument.
        cause = error.args[0] if error.args else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise _unreachable(
                url,
                f"its certificate is not trusted ({cause.verify_message})",
                "use an address with a valid certificate, or set SSL_CERT_FILE to your authority's",
            ) from error
        refused = isinstance(cause, ConnectionRefusedError)
        found = "the connection was refused" if refused else f"no connection ({error})"
        raise _Interrupted(found, absent=refused) from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.HTTPError) as error:
        raise _Interrupted(f"the transfer broke off ({error})") from error


def _check_status(url: str, response: httpx2.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    found = f"the server answered {status} {response.reason_phrase}".rstrip()
    if status in RETRIED_STATUSES:
        raise _Interrupted(found, wait_s=_retry_after_s(response))
    if status in (401, 403, 407):
        fix = (
            "make the file readable without a login, or use an address that carries its permission"
        )
    elif status in (404, 410):
        fix = "check the spelling of the address and that the file still exists"
    else:
        fix = "open the address in a browser to see what the server wants"
    if response.has_redirect_location:
        found, fix = f"more than {MAX_REDIRECTS} redirects", "use the address of the file itself"
    raise _unreachable(url, found, fix)


def _retry_after_s(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else 0.0


def _resumed_at(response: httpx2.Response, note: _Note, part: Path) -> int:
    """Where in the file the body starts: at the end of what we have, or at 0."""
    if response.status_code == 200:
        return 0
    have = _size(part)
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    same_version = all(
        new is None or new == old
        for new, old in (
            (response.headers.get("ETag"), note.etag),
            (response.headers.get("Last-Modified"), note.last_modified),
        )
    )
    if start and int(start[1]) == have and same_version and note.total in (None, _total(response)):
        return have
    part.unlink(missing_ok=True)
    raise _Interrupted("the server answered with a part of another version")


def _total(response: httpx2.Response) -> int | None:
    """The whole file's bytes as announced."""
    if response.status_code == 206:
        whole = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
        return int(whole[1]) if whole else None
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None


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
    size, total = offset, _total(response)
    window_end_s, window_size = time.monotonic() + patience.slow_window_s, size
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
            if size - window_size < patience.slow_window_bytes:
                raise _Interrupted("the server sends too slowly")
            window_end_s, window_size = time.monotonic() + patience.slow_window_s, size
    if size > max_bytes:
        part.unlink()
        raise _too_large(url, size, max_bytes)
    if total is not None and size != total:
        raise _Interrupted(f"the body ended after {size} of {total} bytes")


def _finish(path: Path, note: _Note) -> Fetched:
    part = _part(path)
    digest, size = file_sha256(part), _size(part)
    os.replace(part, path)
    _write_note(path, replace(note, sha256=digest, total=size))
    log.info("download finished file=%s bytes=%d sha256=%s", path.name, size, digest)
    return Fetched(path, size, digest)


def _too_large(url: str, size: int, max_bytes: int) -> DatasetUnreachable:
    return _unreachable(
        url,
        f"it has at least {size} bytes, more than the {max_bytes} bytes a dataset may have here",
        "use fewer or smaller files",
    )


def _given_up(url: str, fault: _Interrupted) -> KaitoflowError:
    if fault.absent:
        fix = "check the spelling of the address and that the server runs"
        return _unreachable(url, str(fault), fix)
    return DownloadFailed(
        f"cannot fetch {shown(url)}",
        f"{fault}, and it kept happening",
        "try again later",
    )


def _unreachable(url: str, found: str, fix: str) -> DatasetUnreachable:
    return DatasetUnreachable(
        f"cannot fetch {shown(url)}",
        f"{found}",
        f"{fix}",
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
