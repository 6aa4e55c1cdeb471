"""One repository of a registry, over the OCI distribution API.

Nothing is held in memory but manifests; every call is tried again while patience lasts, with the
credentials read anew. oras-py is not used: it reads each blob into memory to upload it, mixes in
the credentials of ~/.docker, has no time-outs, and takes two minutes to say that a password is
wrong.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import httpx2

from tasks.errors import ImageReferenceInvalid, RegistryDenied, RegistryUnavailable
from tasks.image.pod.authority import RegistryAuth
from tasks.image.pod.credentials import read_credentials
from tasks.image.pod.manifest import (
    DOCKER_INDEX_TYPE,
    DOCKER_MANIFEST_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    digest_of,
)
from tasks.image.pod.patience import Patience, Unsteady, keep_trying
from tasks.image.pod.progress import Progress
from tasks.image.pod.reference import DEFAULT_REGISTRY, Reference

_DOCKER_HUB_API = "registry-1.docker.io"
_MANIFEST_TYPES = ", ".join([MANIFEST_TYPE, INDEX_TYPE, DOCKER_MANIFEST_TYPE, DOCKER_INDEX_TYPE])
_MANIFEST_MAX_BYTES = 4 * 2**20  # the distribution specification's own limit
_CHUNK_BYTES = 2**20
# Reading waits for a registry that digests a large upload before it answers.
_TIMEOUT = httpx2.Timeout(10.0, read=300.0, write=60.0)

Outcome = TypeVar("Outcome")

logger = logging.getLogger(__name__)


class Repository:
    """What can be asked of the registry about the repository in `reference`.

    docker_config: None = anonymous. insecure: registries reached by plain http.
    Raises, from every method: RegistryDenied, RegistryUnavailable, ImageReferenceInvalid.
    """

    def __init__(
        self,
        reference: Reference,
        access: Literal["pull", "pull,push"],
        *,
        docker_config: Path | None = None,
        insecure: tuple[str, ...] = (),
        patience: Patience,
    ) -> None:
        host = _DOCKER_HUB_API if reference.registry == DEFAULT_REGISTRY else reference.registry
        plain = reference.is_loopback or reference.registry in insecure
        self._reference = reference
        self._verb = "pushing to" if "push" in access else "pulling"
        self._docker_config = docker_config
        self._patience = patience
        self._base_url = httpx2.URL(f"{'http' if plain else 'https'}://{host}")
        self._url = f"{self._base_url}/v2/{reference.repository}"
        self._client = httpx2.Client(
            auth=RegistryAuth(
                self._base_url,
                f"repository:{reference.repository}:{access}",
                lambda: read_credentials(docker_config, reference),
            ),
            headers={"Accept-Encoding": "identity", "User-Agent": "kaitoflow"},
            timeout=_TIMEOUT,
            follow_redirects=True,
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

    def manifest_digest(self) -> str | None:
        """The digest of what the reference names now; None = nothing."""
        return self._persist(self._manifest_digest)

    def has_blob(self, digest: str) -> bool:
        """Whether the repository holds the blob."""
        return self._persist(lambda: self._has_blob(digest))

    def upload(self, path: Path, digest: str, progress: Progress) -> bool:
        """Send a blob, unless it is there; False = it was."""
        return self._persist(lambda: self._upload(path, digest, progress))

    def put_manifest(self, manifest: bytes) -> None:
        """Let the reference's tag name this manifest, whose blobs are uploaded."""
        self._persist(lambda: self._put_manifest(manifest))

    def read_manifest(self, target: str) -> bytes:
        """The manifest under a tag or a digest; checked against the digest."""
        return self._persist(lambda: self._read_manifest(target))

    def download(self, digest: str, into: Path, progress: Progress) -> None:
        """Have the blob as a file, checked against its digest."""
        self._persist(lambda: self._download(digest, into, progress))

    def check_push(self) -> None:
        """Nothing, if a push would be allowed now: an upload is begun and given up."""
        upload_url = self._persist(self._begin_upload)
        with self._answer("DELETE", upload_url) as answer:
            # Registries that cannot give up an upload let it expire; the permission is proved.
            logger.debug("gave up the trial upload status=%d", answer.status_code)

    def _persist(self, attempt: Callable[[], Outcome]) -> Outcome:
        return keep_trying(attempt, self._patience)

    def _manifest_digest(self) -> str | None:
        url = f"{self._url}/manifests/{self._reference.target}"
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
                raise self._unsteady(f"it answered {answer.status_code} without a place to send to")
            return str(answer.url.join(location))

    def _upload(self, path: Path, digest: str, progress: Progress) -> bool:
        if self._has_blob(digest):
            progress.advance(path.stat().st_size)
            return False
        upload_url = self._begin_upload()
        # Appended as text: registries sign the query they hand out, so its spelling must stay.
        url = f"{upload_url}{'&' if '?' in upload_url else '?'}digest={digest}"
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
        }
        body = _FileBody(path, progress)
        with self._answer("PUT", url, headers=headers, content=body) as answer:
            if answer.status_code in {400, 404, 416}:
                # The upload got lost or mangled on the way; beginning anew is the cure.
                raise self._unsteady(_said(answer))
            self._check(answer)
        return True

    def _put_manifest(self, manifest: bytes) -> None:
        url = f"{self._url}/manifests/{self._reference.tag}"
        headers = {"Content-Type": MANIFEST_TYPE}
        with self._answer("PUT", url, headers=headers, content=manifest) as answer:
            self._check(answer)

    def _read_manifest(self, target: str) -> bytes:
        url = f"{self._url}/manifests/{target}"
        content = b""
        with self._answer("GET", url, headers={"Accept": _MANIFEST_TYPES}) as answer:
            self._check(answer)
            for chunk in self._chunks(answer):
                content += chunk
                if len(content) > _MANIFEST_MAX_BYTES:
                    raise self._unsteady(f"its manifest has over {_MANIFEST_MAX_BYTES} bytes")
        if ":" in target and digest_of(content) != target:
            raise self._unsteady(f"its manifest {target} has the digest {digest_of(content)}")
        return content

    def _download(self, digest: str, into: Path, progress: Progress) -> None:
        progress.restart()
        seen = hashlib.sha256()
        with self._answer("GET", f"{self._url}/blobs/{digest}") as answer, into.open("wb") as file:
            self._check(answer)
            for chunk in self._chunks(answer):
                seen.update(chunk)
                file.write(chunk)
                progress.advance(len(chunk))
        if f"sha256:{seen.hexdigest()}" != digest:
            raise self._unsteady(f"its blob {digest} has the digest sha256:{seen.hexdigest()}")
