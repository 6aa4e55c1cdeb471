"""Which addresses a download may connect to; the rule is applied to the socket, not to the URL.

A name is resolved once, every address it has is checked, and the connection goes to a checked
one: a name that answers differently the second time (DNS rebinding) gains nothing, and redirects
pass the same door. Used by downloads of datasets and by all that is asked of registries.
"""

import functools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore2
import httpx2

from tasks.contract.errors import AddressForbidden

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Sequence[str]]

# Platform services that give out credentials; two of them have globally routable addresses.
METADATA_ADDRESSES = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack, Oracle
        "169.254.170.2",  # AWS container credentials
        "169.254.170.23",  # AWS, EKS pod identities
        "fd00:ec2::23",  # the same over IPv6
        "168.63.129.16",  # Azure's host channel
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle, classic
        "fd00:ec2::254",  # AWS over IPv6
        "fd20:ce::254",  # Google over IPv6
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "fd00:42::42",  # Scaleway over IPv6
    )
)
METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data"})
NAT64 = IPv6Network("64:ff9b::/96")
ADDRESSES_TRIED = 4
# A request's extension: the monotonic time by which its answer's body must begin.
BEGINS_BY_S = "begins_by_s"
_PIECE_BYTES = 64 * 2**10
_FIX = "use a public address, or mount the data as a volume"


def system_addresses(host: str, port: int) -> list[str]:
    """Every address the system's resolver knows for a host, in its order of preference.

    Raises: socket.gaierror: no such name, or no answer.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def written_addresses(host: str, port: int) -> list[str]:  # noqa: ARG001
    """The host itself where it is written as an address; no name is asked for."""
    try:
        return [str(ip_address(host))]
    except ValueError:
        return []


def why_refused(address: Address, *, allow_local_addresses: bool) -> str | None:
    """What speaks against connecting to this address; None when nothing does."""
    inner = _embedded_ipv4(address)
    if inner in METADATA_ADDRESSES:
        return "a metadata service"
    if inner.is_multicast:
        return "a multicast address"
    if allow_local_addresses:
        return None
    if inner.is_loopback:
        return "this machine itself"
    if inner.is_link_local:
        return "a link-local address"
    if not inner.is_global or inner.is_reserved or getattr(inner, "is_site_local", False):
        return "an address inside a private network"
    return None


def _embedded_ipv4(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, so that it is judged by what it reaches."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


@dataclass(frozen=True)
class Pace:
    """How slow another machine may be: silent for `start_s`, and `bytes_per_s` over the whole.

    Time-outs alone count from byte to byte: one byte a minute keeps a transfer going for years.
    """

    start_s: float
    bytes_per_s: float


class PacedStream(httpcore2.NetworkStream):
    """A connection on which each direction's turn has to keep up a pace."""

    def __init__(
        self,
        stream: httpcore2.NetworkStream,
        pace: Pace,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._pace, self._clock = stream, pace, clock
        self._turn, self._since_s, self._bytes = "", 0.0, 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come.

        Raises: httpcore2.TimeoutException: too slowly.
        """
        chunk = self._stream.read(max_bytes, self._left_s("read", timeout))
        self._bytes += len(chunk)
        return chunk

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send it.

        Raises: httpcore2.TimeoutException: it is taken too slowly.
        """
        for start in range(0, len(buffer), _PIECE_BYTES):
            piece = buffer[start : start + _PIECE_BYTES]
            self._stream.write(piece, self._left_s("write", timeout))
            self._bytes += len(piece)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        """The same connection, encrypted, with the same pace."""
        inner = self._stream.start_tls(ssl_context, server_hostname, timeout)
        return PacedStream(inner, self._pace, clock=self._clock)

    def get_extra_info(self, info: str) -> Any:
        """What the connection knows of itself."""
        return self._stream.get_extra_info(info)

    def _left_s(self, turn: str, timeout: float | None) -> float:
        now_s = self._clock()
        if turn != self._turn:
            self._turn, self._since_s, self._bytes = turn, now_s, 0
        budget_s = self._pace.start_s + self._bytes / self._pace.bytes_per_s
        left_s = self._since_s + budget_s - now_s
        if left_s <= 0:
            raise httpcore2.ReadTimeout(
                f"{self._bytes} bytes in {now_s - self._since_s:.0f} s are too few"
            )
        return left_s if timeout is None else min(timeout, left_s)


class _Deadline(threading.local):
    """Until when a thread's request may wait for the body of its answer; None = no limit."""

    by_s: float | None = None

    def left_s(self, timeout_s: float | None) -> float | None:
        """The time-out of one turn.

        Raises: httpcore2.ReadTimeout: the time is over.
        """
        if self.by_s is None:
            return timeout_s
        left_s = self.by_s - time.monotonic()
        if left_s <= 0:
            raise httpcore2.ReadTimeout("the body of the answer did not begin in time")
        return left_s if timeout_s is None else min(timeout_s, left_s)


class _TimedStream(httpcore2.NetworkStream):
    """A connection on which an answer's beginning has one deadline, whatever is sent meanwhile."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left_s = self._deadline.left_s(timeout)
        return _TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, left_s), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _TimedBackend(httpcore2.NetworkBackend):
    def __init__(self, backend: httpcore2.NetworkBackend, deadline: _Deadline) -> None:
        self._backend, self._deadline = backend, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        left_s = self._deadline.left_s(timeout)
        stream = self._backend.connect_tcp(host, port, left_s, local_address, socket_options)
        return _TimedStream(stream, self._deadline)


class GuardedBackend(httpcore2.NetworkBackend):
    """Opens connections to allowed addresses only."""

    def __init__(
        self,
        *,
        allow_local_addresses: bool = False,
        home: str | None = None,
        inside: Iterable[str] = (),
        resolve: Resolver = system_addresses,
        fix: str = _FIX,
        pace: Pace | None = None,
    ) -> None:
        """Let `home`, a host that a person has named, lie inside; then others may too.

        inside: others that may without; `*` = all. fix: what to do about a host that is refused.
        pace: None = as slow as time-outs allow.
        """
        self._pace = pace
        self._allow_local = allow_local_addresses
        self._home = home
        self._inside = {name.rstrip(".").lower() for name in inside}
        self._resolve = resolve
        self._fix = fix
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first of the host's addresses that takes one.

        Raises: AddressForbidden: the name or any of its addresses is not allowed.
        """
        fault: httpcore2.NetworkError | httpcore2.TimeoutException | None = None
        for address in self.allowed_addresses(host, port)[:ADDRESSES_TRIED]:
            try:
                stream = self._sockets.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
                return PacedStream(stream, self._pace) if self._pace else stream
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                fault = error
        raise fault or socket.gaierror(socket.EAI_NONAME, "the name has no address")

    def allowed_addresses(self, host: str, port: int) -> list[str]:
        """The host's addresses; one that is not allowed refuses them all."""
        name = host.rstrip(".").lower()
        if name in METADATA_NAMES:
            raise self._not_allowed(host, "a metadata service")
        is_named = bool(self._inside & {"*", name})
        allow_local = self._allow_local or is_named or self._is_home_inside
        if not allow_local and (name == "localhost" or name.endswith(".localhost")):
            raise self._not_allowed(host, "this machine itself")
        addresses = list(self._resolve(host, port))
        for text in addresses:
            why = why_refused(ip_address(text), allow_local_addresses=allow_local)
            if why:
                raise self._not_allowed(host, why if text == host else f"{text}, {why}")
        return addresses

    @cached_property
    def _is_home_inside(self) -> bool:
        if self._home is None:
            return False
        if self._home == "localhost" or self._home.endswith(".localhost"):
            return True
        found = self._resolve(self._home, 0)
        return any(why_refused(ip_address(text), allow_local_addresses=False) for text in found)

    def _not_allowed(self, host: str, found: str) -> AddressForbidden:
        return AddressForbidden(
            f"cannot connect to {host}",
            f"it is {found}, which is not allowed",
            f"{self._fix}",
        )


def trusted_authorities() -> ssl.SSLContext:
    """The certificate authorities of SSL_CERT_FILE and SSL_CERT_DIR, else the client's own.

    They are read once in a process, since that takes a tenth of a second.
    """
    return _authorities_of(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.lru_cache(maxsize=8)
def _authorities_of(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # which reads the same two variables


class GuardedTransport(httpx2.BaseTransport):
    """The way of httpx2 to the network through a GuardedBackend; faults stay httpcore2's.

    No proxy is ever used: behind one, the proxy would resolve the name and the check would be void.
    """

    def __init__(self, backend: GuardedBackend, *, tls: ssl.SSLContext) -> None:
        self._deadline = _Deadline()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=tls, network_backend=_TimedBackend(backend, self._deadline)
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; redirects are the caller's affair.

        Time-outs count from byte to byte, and interim answers and header lines are bytes too:
        with the extension BEGINS_BY_S all of them together have to end by then.
        """
        self._deadline.by_s = request.extensions.get(BEGINS_BY_S)
        try:
            answer = self._sent(request)
        finally:
            self._deadline.by_s = None
        return httpx2.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    def _sent(self, request: httpx2.Request) -> httpcore2.Response:
        return self._pool.handle_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()
