"""A file that a web server offers: its answer is asked for, redirects and faults are told apart.

Downloads of datasets and the plan's look both begin here.
"""

import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpcore2
import httpx2

from tasks.contract.errors import DatasetUnreachable, DownloadFailed
from tasks.remote import guard

Client = httpx2.Client

MAX_REDIRECTS = 10
BEGINS_WITHIN_S = 120.0
# Of an answer that refuses: stores say in its first lines why.
_REASON_BYTES = 4096
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class UrlProbe:
    """What a server says about a file before it is fetched; None or empty = it does not say."""

    bytes: int | None
    content_type: str | None
    etag: str = ""
    modified: str = ""

    @property
    def is_web_page(self) -> bool:
        """Whether a page for people is there instead of a file."""
        return (self.content_type or "").startswith("text/html")


class Interrupted(Exception):
    """A fault that trying again may cure; `absent`: nobody seems to be there."""

    def __init__(self, found: str, *, absent: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(found)
        self.absent = absent
        self.wait_s = wait_s


def open_client(
    *,
    allow_local_addresses: bool,
    connect_timeout_s: float = 10.0,
    read_timeout_s: float = 30.0,
    resolve: guard.Resolver = guard.system_addresses,
) -> httpx2.Client:
    """An HTTP client that connects to allowed addresses only and follows no redirect by itself.

    SSL_CERT_FILE and SSL_CERT_DIR count, proxy variables and ~/.netrc do not.
    """
    backend = guard.GuardedBackend(allow_local_addresses=allow_local_addresses, resolve=resolve)
    return httpx2.Client(
        transport=guard.GuardedTransport(backend, tls=guard.trusted_authorities()),
        timeout=httpx2.Timeout(read_timeout_s, connect=connect_timeout_s),
        trust_env=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "kaitoflow"},
    )


def shown(url: str) -> str:
    """The URL without what may be secret: user, password, query and fragment.

    Of one that cannot be read nobody knows which part is which: only its scheme is told.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        scheme, colon, _ = url.partition("://")
        return f"{scheme}://***" if colon and scheme.isalpha() else "***"
    if parsed.scheme == "file":
        return f"file://{parsed.host}{parsed.path}"
    return str(parsed.copy_with(username=None, password=None, query=None, fragment=None))


def probe(client: Client, url: str) -> UrlProbe:
    """What the server says of the file, without its body; asked once.

    Raises: DatasetUnreachable: absent or not allowed. DownloadFailed: a fault that may pass, or
        nobody there: one look tells neither from a fault of the way to it.
    """
    try:
        with answer(client, url, {}) as response:
            check_status(url, response)
            said = response.headers
            return UrlProbe(
                bytes=total_bytes(response),
                content_type=said.get("Content-Type"),
                etag=said.get("ETag", ""),
                modified=said.get("Last-Modified", ""),
            )
    except Interrupted as fault:
        raise DownloadFailed(
            f"cannot reach {shown(url)}", str(fault), "check the address, and try again"
        ) from fault


@contextmanager
def answer(
    client: httpx2.Client,
    url: str,
    headers: Mapping[str, str],
    *,
    begins_within_s: float = BEGINS_WITHIN_S,
) -> Iterator[httpx2.Response]:
    """The answer at the end of the redirects, its body unread; network faults are told apart.

    begins_within_s: all of the redirects, interim answers and header lines take together at most.
    """
    with _network_faults(url):
        request = _request(client, url, headers)
        request.extensions[guard.BEGINS_BY_S] = time.monotonic() + begins_within_s
        response = client.send(request, stream=True)
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
    except httpx2.InvalidURL:
        # What the library says of it quotes a part, which may be of the password.
        fix = "correct it; write %XX for each special character of a user, password or query"
        raise unreachable(url, "the address cannot be read", fix) from None
    if request.url.scheme not in ("http", "https") or not request.url.host:
        raise unreachable(url, "it is no http or https address", "use an http or https address")
    return request


def _redirected(url: str, response: httpx2.Response) -> httpx2.Request:
    request = response.next_request
    if request is None or request.url.scheme not in ("http", "https"):
        scheme = response.headers.get("Location", "").partition(":")[0][:20]
        raise unreachable(
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
        raise Interrupted(f"a host name was not found ({host})", absent=True) from error
    except httpcore2.TimeoutException as error:
        raise Interrupted("the server did not answer in time") from error
    except httpcore2.ConnectError as error:
        # The pool drops __cause__; the fault itself is the only argument.
        cause = error.args[0] if error.args else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise unreachable(
                url,
                f"its certificate is not trusted ({cause.verify_message})",
                "use an address with a valid certificate, or set SSL_CERT_FILE to your authority's",
            ) from error
        refused = isinstance(cause, ConnectionRefusedError)
        found = "the connection was refused" if refused else f"no connection ({error})"
        raise Interrupted(found, absent=refused) from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.HTTPError) as error:
        raise Interrupted(f"the transfer broke off ({error})") from error


def check_status(url: str, response: httpx2.Response) -> None:
    """Nothing, if the answer is the file or the part that was asked for.

    Raises: DatasetUnreachable: an answer that stays. Interrupted: one that may pass.
    """
    status = response.status_code
    if status in (200, 206):
        return
    found = f"the server answered {status} {response.reason_phrase}".rstrip()
    if status in RETRIED_STATUSES:
        raise Interrupted(found, wait_s=_retry_after_s(response))
    if status in (401, 403, 407):
        fix = (
            "make the file readable without a login, or use an address that carries its permission"
        )
        if b"expired" in next(response.iter_raw(_REASON_BYTES), b"").lower():
            found += ": the permission in the address has expired"
            fix = "ask for a new address; the one given was good for a time only"
    elif status in (404, 410):
        fix = "check the spelling of the address and that the file still exists"
    else:
        fix = "open the address in a browser to see what the server wants"
    if response.has_redirect_location:
        found, fix = f"more than {MAX_REDIRECTS} redirects", "use the address of the file itself"
    raise unreachable(url, found, fix)


def _retry_after_s(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else 0.0


def total_bytes(response: httpx2.Response) -> int | None:
    """The whole file's bytes as announced."""
    if response.status_code == 206:
        whole = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
        return int(whole[1]) if whole else None
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None


def unreachable(url: str, found: str, fix: str) -> DatasetUnreachable:
    """The error of an address that trying again does not cure."""
    return DatasetUnreachable(f"cannot fetch {shown(url)}", found, fix)
