"""Keys that open an endpoint: read from a file, kept as their SHA-256, compared in constant time.

The file has a key a line, each as it is or as `sha256:` and its digest in hex; several let one be
changed for another without a moment in which none opens. It is read at each request, so that a
Secret that a kubelet brings up to date counts at once.
"""

import hashlib
import hmac
from pathlib import Path

from starlette.datastructures import Headers

from serving.errors import ApiError

_HASHED = "sha256:"


class Keys:
    """The keys in a file; None, or a file without any, opens to nobody."""

    def __init__(self, file: Path | None, *, purpose: str, fix: str) -> None:
        """purpose: what they are for, fix: how to have one; both as an answer says it."""
        self._file = file
        self._purpose = purpose
        self._fix = fix

    def expect(self, headers: Headers) -> None:
        """Nothing when the request bears one of the keys.

        Raises: ApiError 403 where there are none, 401 for a wrong or missing one.
        """
        digests = self._digests()
        if not digests:
            raise ApiError(
                403,
                f"{self._purpose} needs a key, this server has none; {self._fix}",
                code="no_key",
            )
        given = given_digest(headers)
        matches = [hmac.compare_digest(given, digest) for digest in digests]
        if not any(matches):
            raise ApiError(
                401,
                f"{self._purpose} needs a key, and none that this server knows came with the"
                " request; send it as Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _digests(self) -> list[bytes]:
        try:
            lines = self._file.read_text().split() if self._file else []
        except (OSError, UnicodeDecodeError):
            return []
        return [digest_of(line) for line in lines]


def given_digest(headers: Headers) -> bytes:
    """The SHA-256 of the key that a request bears; nothing where it bears none.

    X-API-Key is for who asks through a proxy that keeps Authorization, as Kubernetes' does.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    return hashlib.sha256(key.strip().encode()).digest() if key.strip() else b""


def digest_of(line: str) -> bytes:
    """The SHA-256 of a key that is written as it is, or as its digest."""
    if line.startswith(_HASHED):
        try:
            return bytes.fromhex(line.removeprefix(_HASHED))
        except ValueError:
            pass  # no digest: a key that begins so
    return hashlib.sha256(line.encode()).digest()
