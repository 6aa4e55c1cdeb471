"""Proving to a registry who asks: the distribution API's Basic and Bearer challenges."""

import json
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from urllib.request import parse_http_list, parse_keqv_list

import httpx2

from tasks.contract.errors import RegistryDenied
from tasks.remote.credentials import Credentials
from tasks.remote.patience import TransientError

_CLIENT_ID = "kaitoflow"
# Errors and tokens are a few kilobytes; a registry that sends more is not read on.
WORDS_MAX_BYTES = 64 * 2**10
_GZIP_WBITS = 31

Ask = Callable[[httpx2.Request], AbstractContextManager[httpx2.Response]]


class RegistryAuth:
    """Answers a registry's 401, then signs each request until the next one.

    Credentials are read at each challenge, and go to the registry and to the token service it
    names itself, never to where either of them redirects to.
    """

    def __init__(
        self, base_url: httpx2.URL, scope: str, credentials: Callable[[], Credentials | None]
    ) -> None:
        self._base_url = base_url
        self._scope = scope
        self._credentials = credentials
        self._header: str | None = None

    def forget(self) -> None:
        """Have the credentials read again at the next challenge."""
        self._header = None

    def sign(self, request: httpx2.Request) -> None:
        """Let a request carry what the registry wants to see; one to another place, nothing."""
        request.headers.pop("Authorization", None)
        if self._header and request.url.origin == self._base_url.origin:
            request.headers["Authorization"] = self._header

    def can_answer(self, refusal: httpx2.Response, ask: Ask) -> bool:
        """Whether there is an answer to a 401 of the registry's own, with which `sign` signs now.

        Args: ask: sends one request as it is and follows no redirect.
        Raises: RegistryDenied: the challenge is not to be answered, or cannot be read.
        """
        self._header = None
        if refusal.url.origin != self._base_url.origin:
            return False
        credentials = self._credentials()
        for challenge in refusal.headers.get_list("WWW-Authenticate"):
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "basic" and credentials and credentials.password:
                self._header = _basic(credentials)
            if scheme.lower() == "bearer":
                self._header = self._fetch_token(self._read_challenge(rest), credentials, ask)
            if self._header:
                return True
        return False

    def _read_challenge(self, text: str) -> dict[str, str]:
        try:
            return parse_keqv_list(parse_http_list(text))
        except (ValueError, IndexError):
            raise RegistryDenied(
                f"{self._base_url.host} was asked how to log in",
                f"its challenge cannot be read ({text!r:.100})",
                "ask who runs the registry",
            ) from None

    def _fetch_token(
        self, challenge: dict[str, str], credentials: Credentials | None, ask: Ask
    ) -> str | None:
        with ask(self._token_request(challenge, credentials)) as answer:
            body = read_words(answer)
        host = answer.url.host
        if answer.status_code == httpx2.codes.TOO_MANY_REQUESTS or answer.is_server_error:
            raise TransientError(
                f"a token was asked of {host}",
                f"it answered {answer.status_code}",
                "try again later",
            )
        if answer.is_redirect:
            raise RegistryDenied(
                f"a token was asked of {host}",
                "it sends the request, and what it proves, to another place",
                "have the registry name its token service itself",
            )
        if answer.status_code != httpx2.codes.OK:
            return None  # the registry's own 401 stands, and is told
        try:
            fields = json.loads(body)
            return f"Bearer {fields.get('token') or fields['access_token']}"
        except (ValueError, LookupError, AttributeError):
            raise TransientError(
                f"a token was asked of {host}", "its answer holds none", "try again later"
            ) from None

    def _token_request(
        self, challenge: dict[str, str], credentials: Credentials | None
    ) -> httpx2.Request:
        realm = self._realm(challenge)
        # The challenge names what this one request needs; a push needs more a moment later.
        scopes = list(dict.fromkeys([self._scope, challenge.get("scope", self._scope)]))
        query: dict[str, str | list[str]] = {"service": challenge.get("service", "")}
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": _CLIENT_ID,
                "refresh_token": credentials.identity_token,
                "scope": " ".join(scopes),
            }
            return httpx2.Request("POST", realm, data=query | form)
        headers = {"Authorization": _basic(credentials)} if credentials else {}
        return httpx2.Request("GET", realm, params=query | {"scope": scopes}, headers=headers)

    def _realm(self, challenge: dict[str, str]) -> httpx2.URL:
        text = challenge.get("realm", "")
        try:
            realm = httpx2.URL(text)
        except httpx2.InvalidURL:
            realm = httpx2.URL("")
        if realm.scheme not in {"https", self._base_url.scheme} or not realm.host:
            raise RegistryDenied(
                f"{self._base_url.host} wants credentials sent to {text!r:.200}",
                "it is not https",
                "have the registry name a token service with https",
            )
        return realm


def read_words(answer: httpx2.Response) -> bytes:
    """The beginning of what a server says: an error, a token; never more than WORDS_MAX_BYTES.

    Packed only where the server packs without being asked to.
    """
    packed = b""
    for chunk in answer.iter_raw():
        packed += chunk
        if len(packed) > WORDS_MAX_BYTES:
            break
    packed = packed[:WORDS_MAX_BYTES]
    if answer.headers.get("Content-Encoding", "").lower() != "gzip":
        return packed
    try:
        return zlib.decompressobj(wbits=_GZIP_WBITS).decompress(packed, WORDS_MAX_BYTES)
    except zlib.error:
        return b""


def _basic(credentials: Credentials) -> str:
    signed = httpx2.Request("GET", "http://unused")
    next(httpx2.BasicAuth(credentials.username, credentials.password).auth_flow(signed))
    return signed.headers["Authorization"]
