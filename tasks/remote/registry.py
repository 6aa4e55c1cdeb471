"""One repository of a registry, over the OCI distribution API.

Nothing is held in memory but manifests; every call is tried again while patience lasts, with the
credentials read anew. oras-py is not used: it reads each blob into memory to upload it, mixes in
the credentials of ~/.docker, has no time-outs, and takes two minutes to say that a password is
wrong.
"""

import hashlib
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.request import getproxies

import httpcore2
import httpx2

from tasks.contract.errors import ImageReferenceInvalid, RegistryDenied, RegistryUnavailable
from tasks.contract.image_reference import DEFAULT_REGISTRY, Reference
from tasks.remote.authority import RegistryAuth, read_words
from tasks.remote.copy_progress import Progress
from tasks.remote.credentials import describe_credentials, read_credentials
from tasks.remote.guard import (
    GuardedBackend,
    GuardedTransport,
    Pace,
    system_addresses,
    trusted_authorities,
    written_addresses,
)
from tasks.remote.manifest import (
    DOCKER_INDEX_TYPE,
    DOCKER_MANIFEST_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    digest_of,
)
from tasks.remote.patience import Patience, TransientError, keep_trying

_DOCKER_HUB_API = "registry-1.docker.io"
_MANIFEST_TYPES = f"{MANIFEST_TYPE}, {INDEX_TYPE}, {DOCKER_MANIFEST_TYPE}, {DOCKER_INDEX_TYPE}"
_DOCUMENT_MAX_BYTES = 4 * 2**20  # the distribution specification's own limit of a manifest
_TAGS_AT_ONCE, _TAG_PAGES_MAX = 1000, 20
_CHUNK_BYTES = 2**20
_HOPS_MAX = 20
_WORDS_MAX_CHARS = 300
# Reading waits for a registry that digests a large upload before it answers.
_PUSH_PACE, _PULL_PACE = Pace(300.0, 10 * 2**10), Pace(120.0, 10 * 2**10)
_TIMEOUT = httpx2.Timeout(10.0, read=300.0, write=60.0)
_FAULTS = (
    httpx2.RequestError,
    httpx2.InvalidURL,
    # As the guarded transport lets them through.
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    socket.gaierror,
)

Outcome = TypeVar("Outcome")

logger = logging.getLogger(__name__)


class Repository:
    """What can be asked of the registry about the repository in `reference`.

    docker_config: None = anonymous. insecure: registries reached by plain http.
    storage_hosts: inside a private network, to which the registry may send us on; `*` = all.
    public_only: neither the registry, nor who it sends us to, may be inside a private network.
    pace: how slow the registry may be; None = as usual.
    Raises, from every method: RegistryDenied, RegistryUnavailable, ImageReferenceInvalid;
        AddressForbidden with public_only.
    """

    def __init__(
        self,
        reference: Reference,
        access: Literal["pull", "pull,push"],
        *,
        docker_config: Path | None = None,
        insecure: tuple[str, ...] = (),
        storage_hosts: tuple[str, ...] = (),
        patience: Patience,
        public_only: bool = False,
        pace: Pace | None = None,
    ) -> None:
        host = _DOCKER_HUB_API if reference.registry == DEFAULT_REGISTRY else reference.registry
        plain = reference.is_loopback or reference.registry in insecure
        self._reference = reference
        self._verb = "pushing to" if "push" in access else "pulling"
        self._docker_config = docker_config
        self._patience = patience
        self._base_url = httpx2.URL(f"{'http' if plain else 'https'}://{host}")
        self._url = f"{self._base_url}/v2/{reference.repository}"
        self._auth = RegistryAuth(
            self._base_url,
            f"repository:{reference.repository}:{access}",
            lambda: read_credentials(docker_config, reference),
        )
        # A proxy resolves the names itself: then only addresses that are written out are judged.
        self._is_proxied = not (reference.is_loopback or public_only) and _has_proxy()
        self._backend = GuardedBackend(
            home=None if public_only else self._base_url.host,
            inside=() if public_only else storage_hosts,
            resolve=written_addresses if self._is_proxied else system_addresses,
            pace=pace or (_PUSH_PACE if "push" in access else _PULL_PACE),
            fix="have the registry serve it itself or from a public address, or name the host in "
            "KAITOFLOW_REGISTRY_STORAGE_HOSTS",
        )
        self._client = httpx2.Client(
            headers={"Accept-Encoding": "identity", "User-Agent": "kaitoflow"},
            timeout=_TIMEOUT,
            transport=None
            if self._is_proxied
            else GuardedTransport(self._backend, tls=trusted_authorities()),
            trust_env=not reference.is_loopback,  # no proxy leads to this machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def manifest_digest(self, target: str = "") -> str | None:
        """The digest of what the reference, or this tag or digest, names now; None = nothing."""
        return self._persist(lambda: self._manifest_digest(target or self._reference.target))

    def has_blob(self, digest: str) -> bool:
        """Whether the repository holds the blob."""
        return self._persist(lambda: self._has_blob(digest))

    def upload(self, path: Path, digest: str, *, phase: str) -> bool:
        """Send a blob, unless it is there; False = it was."""
        return self._persist(lambda: self._upload(path, digest, phase))

    def put_manifest(self, manifest: bytes) -> None:
        """Let the reference's tag name this manifest, whose blobs are uploaded."""
        self._persist(lambda: self._put_manifest(manifest))

    def remove_manifest(self, digest: str) -> None:
        """Have the repository forget a manifest, and every tag that names it."""
        self._persist(lambda: self._remove_manifest(digest))

    def read_manifest(self, target: str) -> bytes:
        """The manifest under a tag or a digest; checked against the digest."""
        return self._persist(lambda: self._read_manifest(target))

    def tags(self) -> tuple[str, ...]:
        """All tags of the repository; none where there is no such repository.

        At most 20 pages of a thousand are read.
        """
        return self._persist(self._tags)

    def have_blob(self, digest: str, size_bytes: int, aside: Path) -> Path:
        """The blob as a file, downloaded to `aside` and checked against its digest."""
        self._persist(lambda: self._download(digest, size_bytes, aside))
        return aside

    def check_push(self) -> None:
        """Nothing, if a push would be allowed now: an upload is begun and given up."""
        upload_url = self._persist(self._begin_upload)
        # Registries that cannot give up an upload let it expire; the permission is proved.
        with suppress(TransientError), self._answer("DELETE", upload_url) as answer:
            logger.debug("gave up the trial upload status=%d", answer.status_code)

    def _persist(self, attempt: Callable[[], Outcome]) -> Outcome:
        return keep_trying(attempt, self._patience)

    def _manifest_digest(self, target: str) -> str | None:
        url = f"{self._url}/manifests/{target}"
        with self._answer("HEAD", url, headers={"Accept": _MANIFEST_TYPES}) as answer:
            if answer.status_code == httpx2.codes.NOT_FOUND:
                return None
            self._check(answer)
            return answer.headers.get("Docker-Content-Digest")

    def _has_blob(self, digest: str) -> bool:
        with self._answer("HEAD", f"{self._url}/blobs/{digest}") as answer:
            if answer.status_code == httpx2.codes.NOT_FOUND:
                return False
            self._check(answer)
            return True

    def _begin_upload(self) -> str:
        with self._answer("POST", f"{self._url}/blobs/uploads/") as answer:
            self._check(answer)
            location = answer.headers.get("Location", "")
            if answer.status_code != httpx2.codes.ACCEPTED or not location:
                raise self._transient(
                    f"it answered {answer.status_code} without a place to send to"
                )
            return str(answer.url.join(location))

    def _upload(self, path: Path, digest: str, phase: str) -> bool:
        if self._has_blob(digest):
            return False
        upload_url = self._begin_upload()
        # Appended as text: registries sign the query they hand out, so its spelling must stay.
        url = f"{upload_url}{'&' if '?' in upload_url else '?'}digest={digest}"
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
        }
        body = _FileBody(path, phase)
        with self._answer("PUT", url, headers=headers, content=body) as answer:
            if answer.status_code in {400, 404, 416}:
                # The upload got lost or mangled on the way; beginning anew is the cure.
                raise self._transient(_said(answer))
            self._check(answer)
        return True

    def _put_manifest(self, manifest: bytes) -> None:
        url = f"{self._url}/manifests/{self._reference.tag}"
        headers = {"Content-Type": MANIFEST_TYPE}
        with self._answer("PUT", url, headers=headers, content=manifest) as answer:
            self._check(answer)

    def _remove_manifest(self, digest: str) -> None:
        with self._answer("DELETE", f"{self._url}/manifests/{digest}") as answer:
            if answer.status_code != httpx2.codes.NOT_FOUND:
                self._check(answer)

    def _read_manifest(self, target: str) -> bytes:
        url = f"{self._url}/manifests/{target}"
        with self._answer("GET", url, headers={"Accept": _MANIFEST_TYPES}) as answer:
            self._check(answer)
            content = self._read_document(answer, "manifest")
        if ":" in target and digest_of(content) != target:
            raise self._transient(f"its manifest {target} has the digest {digest_of(content)}")
        return content

    def _tags(self) -> tuple[str, ...]:
        found: list[str] = []
        url = f"{self._url}/tags/list?n={_TAGS_AT_ONCE}"
        for _ in range(_TAG_PAGES_MAX):
            with self._answer("GET", url) as answer:
                if answer.status_code == httpx2.codes.NOT_FOUND:
                    break
                self._check(answer)
                found += self._listed_tags(answer)
                following = answer.links.get("next", {}).get("url", "")
                url = str(answer.url.join(following))
            if not following:
                break
        return tuple(found)

    def _listed_tags(self, answer: httpx2.Response) -> list[str]:
        try:
            listed = json.loads(self._read_document(answer, "list of tags"))["tags"] or []
            return [str(tag) for tag in listed]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise self._transient("its list of tags is none") from None

    def _read_document(self, answer: httpx2.Response, what: str) -> bytes:
        content = b""
        for chunk in answer.iter_raw(_CHUNK_BYTES):
            content += chunk
            if len(content) > _DOCUMENT_MAX_BYTES:
                raise self._transient(f"its {what} has over {_DOCUMENT_MAX_BYTES} bytes")
        return content

    def _download(self, digest: str, size_bytes: int, aside: Path) -> None:
        progress = Progress("download", size_bytes)
        seen = hashlib.sha256()
        with self._answer("GET", f"{self._url}/blobs/{digest}") as answer, aside.open("wb") as file:
            self._check(answer)
            for chunk in answer.iter_raw(_CHUNK_BYTES):
                seen.update(chunk)
                file.write(chunk)
                progress.advance(len(chunk))
                if file.tell() > size_bytes:
                    break  # the digest cannot be right any more
        if f"sha256:{seen.hexdigest()}" != digest:
            raise self._transient(f"the bytes of its blob {digest} are not those of the digest")

    @contextmanager
    def _answer(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None,
    ) -> Iterator[httpx2.Response]:
        try:
            request = self._client.build_request(method, url, headers=headers, content=content)
            with closing(self._ask(request)) as answer:
                yield answer
        except _FAULTS as error:
            if isinstance(reason := _root_cause(error), ssl.SSLError):
                raise self._untrusted(reason) from error
            raise self._transient(str(error) or type(error).__name__) from error

    def _ask(self, request: httpx2.Request) -> httpx2.Response:
        """What a request comes to: challenges are answered, redirects followed, each hop judged."""
        is_challenged = False
        for _ in range(_HOPS_MAX):
            self._auth.sign(request)
            answer = self._send(request)
            following = answer.next_request
            if answer.status_code == httpx2.codes.UNAUTHORIZED and not is_challenged:
                is_challenged = True
                following = request if self._auth.can_answer(answer, self._asked) else None
            if following is None:
                return answer
            with closing(answer):
                read_words(answer)  # a connection that is read to its end is used again
            request = following
        raise self._transient(f"it redirects over {_HOPS_MAX} times")

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        """The answer to one request; before it is sent, its place is judged."""
        if self._is_proxied:
            self._backend.allowed_addresses(request.url.host, request.url.port or 0)
        return self._client.send(request, stream=True)

    @contextmanager
    def _asked(self, request: httpx2.Request) -> Iterator[httpx2.Response]:
        with closing(self._send(request)) as answer:
            yield answer

    def _check(self, answer: httpx2.Response) -> None:
        """Nothing if the registry did what it was asked; else the error that its answer means."""
        if answer.is_success:
            return
        if answer.status_code in {401, 403}:
            self._auth.forget()
            raise RegistryDenied(
                f"{self._verb} {self._reference} was asked for",
                f"the registry refused it ({_said(answer)})",
                describe_credentials(self._docker_config, self._reference),
            )
        if answer.status_code in {408, 429} or answer.is_server_error:
            raise self._transient(_said(answer), wait_s=_retry_after_s(answer))
        fix = (
            "check the name and the tag, and that the repository exists"
            if answer.status_code == httpx2.codes.NOT_FOUND
            else "use another name or tag, or ask who runs the registry"
        )
        raise ImageReferenceInvalid(
            f"{self._verb} {self._reference} failed",
            f"the registry answered {_said(answer)}",
            f"{fix}",
        )

    def _transient(self, found: str, *, wait_s: float = 0.0) -> TransientError:
        error = TransientError(
            f"{self._verb} {self._reference} failed",
            found,
            f"check that {self._base_url} can be reached and is healthy, then try again",
        )
        error.wait_s = wait_s
        return error

    def _untrusted(self, reason: ssl.SSLError) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"{self._verb} {self._reference} failed",
            f"no safe connection ({reason.reason})",
            "let SSL_CERT_FILE name the registry's certificate authority, or, if it "
            "speaks plain http, list it as insecure",
        )


def _has_proxy() -> bool:
    return bool(getproxies().keys() & {"http", "https", "all"})


class _FileBody:
    """A file as a request body: read in pieces, from the start again if it has to be sent again."""

    def __init__(self, path: Path, phase: str) -> None:
        self._path = path
        self._phase = phase

    def __iter__(self) -> Iterator[bytes]:
        progress = Progress(self._phase, self._path.stat().st_size)
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
                progress.advance(len(chunk))


def _said(answer: httpx2.Response) -> str:
    """The status and the registry's own words: `401 UNAUTHORIZED: authentication required`."""
    try:
        first = json.loads(read_words(answer))["errors"][0]
        words = f"{first['code']}: {first.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        words = answer.reason_phrase
    return f"{answer.status_code} {_quoted(words)}"


def _quoted(words: str) -> str:
    """A stranger's words on one line, and not too many of them."""
    line = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return line if len(line) <= _WORDS_MAX_CHARS else f"{line[:_WORDS_MAX_CHARS]} ..."


def _retry_after_s(answer: httpx2.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(tz=UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _root_cause(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
