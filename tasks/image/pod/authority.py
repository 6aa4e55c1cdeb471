"""Proving to a registry who asks: the distribution API's Basic and Bearer challenges."""

from collections.abc import Callable, Generator
from urllib.request import parse_http_list, parse_keqv_list

import httpx2

from tasks.errors import RegistryDenied
from tasks.image.pod.credentials import Credentials
from tasks.image.pod.patience import TransientError

_CLIENT_ID = "kaitoflow"

Flow = Generator[httpx2.Request, httpx2.Response, None]


class RegistryAuth(httpx2.Auth):
    """Answers a registry's 401, then signs each request until the next one.

    Credentials are read at each challenge, and go to the registry and to the token service it
    names, never to where it redirects to.
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

    def sync_auth_flow(self, request: httpx2.Request) -> Flow:
        """The requests that one request takes: itself, perhaps one for a token, itself again."""
        if _origin(request.url) != _origin(self._base_url):
            yield request
            return
        if self._header:
            request.headers["Authorization"] = self._header
        response = yield request
        if response.status_code != httpx2.codes.UNAUTHORIZED:
            return
        self._header = None
        yield from self._answer(response.headers.get("WWW-Authenticate", ""))
        if self._header:
            request.headers["Authorization"] = self._header
            yield request

    def _answer(self, challenge: str) -> Flow:
        scheme, _, rest = challenge.partition(" ")
        credentials = self._credentials()
        if scheme.lower() == "basic" and credentials and credentials.password:
            self._header = _basic(credentials)
        if scheme.lower() == "bearer":
            yield from self._fetch_token(parse_keqv_list(parse_http_list(rest)), credentials)

    def _fetch_token(self, challenge: dict[str, str], credentials: Credentials | None) -> Flow:
        answer = yield self._token_request(challenge, credentials)
        answer.read()
        if answer.status_code == httpx2.codes.TOO_MANY_REQUESTS or answer.status_code >= 500:
            raise TransientError(
                f"a token was asked of {answer.url.host}, which answered {answer.status_code}; "
                "try again later"
            )
        if answer.status_code != httpx2.codes.OK:
            return  # the registry's own 401 stands, and is told
        try:
            body = answer.json()
            self._header = f"Bearer {body.get('token') or body['access_token']}"
        except (ValueError, LookupError, AttributeError):
            raise TransientError(
                f"a token was asked of {answer.url.host}, whose answer holds none; try again later"
            ) from None

    def _token_request(
        self, challenge: dict[str, str], credentials: Credentials | None
    ) -> httpx2.Request:
        realm = challenge.get("realm", "")
        if httpx2.URL(realm).scheme not in {"https", self._base_url.scheme}:
            raise RegistryDenied(
                f'{self._base_url.host} wants credentials sent to "{realm}", which is not https; '
                "have the registry name a token service with https"
            )
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


def _basic(credentials: Credentials) -> str:
    signed = httpx2.Request("GET", "http://unused")
    next(httpx2.BasicAuth(credentials.username, credentials.password).auth_flow(signed))
    return signed.headers["Authorization"]


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
