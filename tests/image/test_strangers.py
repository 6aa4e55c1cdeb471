"""A registry, and whoever it sends us to, gets no more than is its own."""

import gzip
import hashlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpcore2
import httpx2
import pytest

from tasks.contract.errors import (
    AddressForbidden,
    ImageReferenceInvalid,
    KaitoflowError,
    RegistryDenied,
    RegistryUnavailable,
)
from tasks.contract.image_reference import parse_reference
from tasks.remote.authority import WORDS_MAX_BYTES, read_words
from tasks.remote.guard import GuardedBackend, Pace, PacedStream
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tests.cluster.registry import docker_config
from tests.image.scripted import Answer, Scripted, scripted

DIGEST = "sha256:" + "0" * 64
BLOB = f"/v2/phi/blobs/{DIGEST}"
MANIFEST = "/v2/phi/manifests/v1"
PASSWORD, REFRESH = "canary-password", "canary-refresh"


@pytest.fixture
def home() -> Iterator[Scripted]:
    """The registry that a person has named."""
    with scripted() as script:
        yield script


@pytest.fixture
def other() -> Iterator[Scripted]:
    """Another origin."""
    with scripted() as script:
        yield script


@pytest.fixture
def third() -> Iterator[Scripted]:
    """And one more."""
    with scripted() as script:
        yield script


def repository(home: Scripted, folder: Path, *, identity: bool = False) -> Repository:
    config = folder / "config.json"
    config.write_text(docker_config(home.host, user="u", password=PASSWORD))
    if identity:
        login = {"identitytoken": REFRESH, "username": "u"}
        config.write_text(json.dumps({"auths": {home.host: login}}))
    reference = parse_reference(f"{home.host}/phi:v1")
    return Repository(reference, "pull", docker_config=config, patience=Patience(0))


def refusal_of(repository: Repository, folder: Path) -> KaitoflowError:
    with repository, pytest.raises(KaitoflowError) as refusal:
        repository.have_blob(DIGEST, 1, folder / "blob")
    return refusal.value


def secrets_of(script: Scripted) -> bool:
    """Whether a server heard anything that proves who asks."""
    return any("uthorization" in heard or REFRESH in heard for heard in script.heard)


def bearer(realm: str) -> Answer:
    return Answer(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_place_that_a_registry_redirects_to_cannot_ask_for_credentials(
    home: Scripted, other: Scripted, tmp_path: Path, identity: bool, scheme: str
) -> None:
    home.answers[f"GET {BLOB}"] = Answer(307, {"Location": f"{other.url}{BLOB}"})
    challenge = bearer(f"{other.url}/token") if scheme == "Bearer" else basic()
    other.answers[f"GET {BLOB}"] = challenge
    error = refusal_of(repository(home, tmp_path, identity=identity), tmp_path)
    assert isinstance(error, RegistryDenied)
    assert other.asked == [f"GET {BLOB}"]
    assert not secrets_of(other)


def basic() -> Answer:
    return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})


@pytest.mark.parametrize("identity", [False, True])
def test_a_token_service_cannot_send_the_request_on(
    home: Scripted, other: Scripted, third: Scripted, tmp_path: Path, identity: bool
) -> None:
    home.answers[f"GET {BLOB}"] = bearer(f"{other.url}/token")
    for method in ("GET", "POST"):
        other.answers[f"{method} /token"] = Answer(307, {"Location": f"{third.url}/token"})
    error = refusal_of(repository(home, tmp_path, identity=identity), tmp_path)
    assert isinstance(error, RegistryDenied)
    assert "another place" in str(error)
    assert secrets_of(other)
    assert not third.heard


def test_a_token_follows_no_redirect(home: Scripted, other: Scripted, tmp_path: Path) -> None:
    home.answers["GET /token"] = Answer(body=b'{"token": "t"}')
    home.answers[f"GET {MANIFEST}"] = bearer(f"{home.url}/token")
    home.answers[f"GET {BLOB}"] = Answer(302, {"Location": f"{other.url}/x"})
    with repository(home, tmp_path) as asked:
        with pytest.raises(RegistryDenied):
            asked.read_manifest("v1")  # refused for ever: it only gets a token
        asked._auth._header = "Bearer t"
        with pytest.raises(ImageReferenceInvalid):
            asked.have_blob(DIGEST, 1, tmp_path / "blob")
    assert any("Bearer t" in heard for heard in home.heard)
    assert other.asked == ["GET /x"]
    assert not secrets_of(other)


@pytest.mark.parametrize(
    "challenge",
    [
        "Bearer foo",
        "Bearer realm=",
        'Bearer realm="ftp://x/y"',
        "Bearer",
        'Bearer realm="http://h:port/"',
        'Bearer realm="/token"',
        'Bearer realm="https://"',
    ],
)
def test_a_challenge_that_makes_no_sense_is_a_refusal(
    home: Scripted, tmp_path: Path, challenge: str
) -> None:
    home.answers[f"GET {BLOB}"] = Answer(401, {"WWW-Authenticate": challenge})
    assert isinstance(refusal_of(repository(home, tmp_path), tmp_path), RegistryDenied)
    assert not secrets_of(home)


@pytest.mark.parametrize("place", ["http://169.254.169.254/x", "http://metadata.google.internal/"])
def test_nobody_is_sent_to_a_metadata_service(home: Scripted, tmp_path: Path, place: str) -> None:
    home.answers[f"GET {BLOB}"] = Answer(307, {"Location": place})
    error = refusal_of(repository(home, tmp_path), tmp_path)
    assert isinstance(error, AddressForbidden)
    assert "a metadata service" in str(error)


def test_an_upload_is_not_sent_to_a_metadata_service(home: Scripted, tmp_path: Path) -> None:
    away = {"Location": "http://169.254.169.254/upload"}
    home.answers["POST /v2/phi/blobs/uploads/"] = Answer(202, away)
    (tmp_path / "layer").write_bytes(b"weights")
    with repository(home, tmp_path) as asked, pytest.raises(AddressForbidden):
        asked.upload(tmp_path / "layer", DIGEST, phase="push")


def test_only_a_registry_that_lies_inside_leads_inside() -> None:
    names = {"public.io": "8.8.8.8", "private.io": "10.0.0.1", "inside": "10.0.0.2"}

    def backend(home: str) -> GuardedBackend:
        return GuardedBackend(home=home, resolve=lambda host, _port: [names[host]])

    assert backend("private.io").allowed_addresses("private.io", 443) == ["10.0.0.1"]
    assert backend("private.io").allowed_addresses("inside", 443) == ["10.0.0.2"]
    with pytest.raises(AddressForbidden, match="inside a private network"):
        backend("public.io").allowed_addresses("inside", 443)


@pytest.mark.parametrize(
    ("named", "leads"),
    [((), False), (("other",), False), (("Storage.",), True), (("*",), True)],
    ids=str,
)
def test_a_registry_outside_leads_to_storage_inside_that_is_named(
    named: tuple[str, ...], leads: bool
) -> None:
    names = {"public.io": "8.8.8.8", "storage": "10.0.0.1", "metadata": "169.254.169.254"}
    backend = GuardedBackend(
        home="public.io", inside=named, resolve=lambda host, _port: [names[host]]
    )
    if leads:
        assert backend.allowed_addresses("storage", 9000) == ["10.0.0.1"]
    else:
        with pytest.raises(AddressForbidden, match="inside a private network"):
            backend.allowed_addresses("storage", 9000)
    with pytest.raises(AddressForbidden, match="a metadata service"):
        backend.allowed_addresses("metadata", 80)


def test_who_is_refused_storage_inside_is_told_how_to_name_it(
    home: Scripted, proxied: Repository
) -> None:
    away = {"Location": "http://10.0.0.1:9000/layer"}
    home.answers[f"GET http://registry.invalid:5000{MANIFEST}"] = Answer(307, away)
    with proxied, pytest.raises(AddressForbidden) as refused:
        proxied.read_manifest("v1")
    assert refused.value.asked == "cannot connect to 10.0.0.1"
    assert refused.value.fix.endswith("name the host in KAITOFLOW_REGISTRY_STORAGE_HOSTS")


def test_a_registry_inside_sends_us_on_to_its_storage_beside_it(
    home: Scripted, other: Scripted, tmp_path: Path
) -> None:
    """As a registry over MinIO does, by an address that is signed; the storage gets no login."""
    layer = b"weights"
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    signed = {"Location": f"{other.url}/bucket/layer?X-Amz-Signature=s"}
    home.answers[f"GET /v2/phi/blobs/{digest}"] = Answer(307, signed)
    other.answers["GET /bucket/layer"] = Answer(body=layer)
    with repository(home, tmp_path) as asked:
        blob = asked.have_blob(digest, len(layer), tmp_path / "blob")
    assert blob.read_bytes() == layer
    assert not secrets_of(other)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_words_without_end_are_not_read_to_their_end(
    home: Scripted, tmp_path: Path, pack: type[bytes]
) -> None:
    body = pack(b'{"errors": [{"code": "X", "message": "' + b"a" * 2**22 + b'"}]}')
    encoding = {} if pack is bytes else {"Content-Encoding": "gzip"}
    home.answers[f"GET {BLOB}"] = Answer(500, encoding, body)
    error = refusal_of(repository(home, tmp_path), tmp_path)
    assert isinstance(error, RegistryUnavailable)
    assert len(str(error)) < 500


def test_a_strangers_words_are_short_and_on_one_line(home: Scripted, tmp_path: Path) -> None:
    words = json.dumps({"errors": [{"code": "X", "message": "a\n\x1b[31m" + "b" * 1000}]})
    home.answers[f"GET {BLOB}"] = Answer(400, body=words.encode())
    error = refusal_of(repository(home, tmp_path), tmp_path)
    assert isinstance(error, ImageReferenceInvalid)
    assert str(error).isprintable()
    assert len(str(error)) < 600


def test_redirects_in_a_circle_end(home: Scripted, tmp_path: Path) -> None:
    home.answers[f"GET {BLOB}"] = Answer(307, {"Location": BLOB})
    error = refusal_of(repository(home, tmp_path), tmp_path)
    assert "redirects over 20 times" in str(error)


def test_a_registry_that_hardly_sends_anything_is_given_up(home: Scripted, tmp_path: Path) -> None:
    home.answers[f"GET {BLOB}"] = Answer(body=b"x" * 1000, slowly_s=0.05)
    reference = parse_reference(f"{home.host}/phi:v1")
    slow = Repository(reference, "pull", patience=Patience(0), pace=Pace(0.3, 1000))
    with slow, pytest.raises(RegistryUnavailable, match="bytes in 0 s are too few|timed out"):
        slow.have_blob(DIGEST, 1000, tmp_path / "blob")


class Dripping(httpcore2.NetworkStream):
    """A connection over which a byte comes, or goes, a second."""

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        return self

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timeouts: list[float | None] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.now_s += 1
        self.timeouts.append(timeout)
        return b"x"

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.now_s += len(buffer)


def dripping(start_s: float, bytes_per_s: float) -> tuple[Dripping, PacedStream]:
    stream = Dripping()
    return stream, PacedStream(stream, Pace(start_s, bytes_per_s), clock=lambda: stream.now_s)


def read_bytes(paced: httpcore2.NetworkStream, count: int) -> None:
    for _ in range(count):
        paced.read(1)


def test_a_byte_a_second_does_not_go_on_for_ever() -> None:
    stream, paced = dripping(10, 100)
    with pytest.raises(httpcore2.TimeoutException):
        read_bytes(paced, 1000)
    assert stream.now_s == pytest.approx(11, abs=1)


def test_a_byte_a_second_is_enough_where_that_is_the_pace() -> None:
    stream, paced = dripping(10, 1)
    read_bytes(paced, 1000)
    assert stream.now_s == 1000


def test_each_turn_has_its_own_time() -> None:
    _, paced = dripping(10, 1000)
    for _ in range(100):
        paced.write(b"x" * 5)
        for _ in range(5):
            paced.read(1)
    with pytest.raises(httpcore2.TimeoutException):
        paced.write(b"x" * 2**20)


def test_a_time_out_of_the_callers_is_kept() -> None:
    stream, paced = dripping(10, 1)
    for asked_s in (3.0, 30.0, None):
        paced.read(1, asked_s)
    assert stream.timeouts == [3.0, 10.0, 10.0]


@pytest.fixture
def proxied(home: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A registry that only a proxy, `home`, can resolve."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, home.url)
    reference = parse_reference("registry.invalid:5000/phi:v1")
    insecure = ("registry.invalid:5000",)
    return Repository(reference, "pull", insecure=insecure, patience=Patience(0))


def test_a_proxy_of_the_environment_is_used(home: Scripted, proxied: Repository) -> None:
    home.answers[f"GET http://registry.invalid:5000{MANIFEST}"] = Answer(body=b"{}")
    with proxied:
        assert proxied.read_manifest("v1") == b"{}"


@pytest.mark.parametrize(
    "place", ["http://169.254.169.254/x", "http://[fd00:ec2::254]/", "http://10.0.0.1/"]
)
def test_no_proxy_is_asked_for_an_address_inside(
    home: Scripted, proxied: Repository, place: str
) -> None:
    home.answers[f"GET http://registry.invalid:5000{MANIFEST}"] = Answer(307, {"Location": place})
    with proxied, pytest.raises(AddressForbidden):
        proxied.read_manifest("v1")
    assert len(home.asked) == 1


def test_a_token_service_inside_is_not_asked_for_a_registry_outside() -> None:
    names = {"public.io": "8.8.8.8"}
    backend = GuardedBackend(home="public.io", resolve=lambda host, _port: [names.get(host, host)])
    with pytest.raises(AddressForbidden, match="link-local"):
        backend.allowed_addresses("169.254.1.1", 80)
    with pytest.raises(AddressForbidden, match="this machine itself"):
        backend.allowed_addresses("localhost", 80)


@pytest.mark.parametrize("home_name", ["localhost", "a.localhost"])
def test_a_registry_of_this_machine_may_lead_to_this_machine(home_name: str) -> None:
    backend = GuardedBackend(home=home_name, resolve=lambda _host, _port: ["127.0.0.1"])
    assert backend.allowed_addresses("localhost", 80) == ["127.0.0.1"]


def test_without_a_home_nothing_inside_is_asked() -> None:
    backend = GuardedBackend(resolve=lambda _host, _port: ["10.0.0.1"])
    with pytest.raises(AddressForbidden, match=r"10\.0\.0\.1, an address inside a private"):
        backend.allowed_addresses("registry", 80)


@pytest.mark.parametrize(("wanted", "served"), [("Bearer", "Basic"), ("Basic", "Bearer")])
def test_the_first_challenge_that_can_be_answered_is(
    home: Scripted, tmp_path: Path, wanted: str, served: str
) -> None:
    """Several may come in one answer; which is first is the registry's wish."""
    auth = repository(home, tmp_path)._auth
    realm = f'realm="{home.url}/token"'
    home.answers["GET /token"] = Answer(body=b'{"access_token": "t"}')
    headers = [("WWW-Authenticate", f"{scheme} {realm}") for scheme in (wanted, served)]
    request = httpx2.Request("GET", f"{home.url}/v2/")
    refusal = httpx2.Response(401, headers=headers, request=request)
    with repository(home, tmp_path) as asked:
        assert auth.can_answer(refusal, asked._asked)
    auth.sign(request)
    assert request.headers["Authorization"].startswith(wanted)
    auth.forget()
    auth.sign(request)
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_no_more_than_the_beginning_of_words_is_held(pack: type[bytes]) -> None:
    encoding = {} if pack is bytes else {"Content-Encoding": "gzip"}
    answer = httpx2.Response(500, headers=encoding, stream=Pieces(pack(b"a" * 2**22)))
    assert read_words(answer) == b"a" * WORDS_MAX_BYTES


class Pieces(httpx2.SyncByteStream):
    """A body that comes in pieces of a kilobyte."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._content), 1024):
            yield self._content[start : start + 1024]


def test_public_registries_only_are_asked_where_that_is_wanted() -> None:
    reference = parse_reference("10.0.0.1:5000/phi:v1")
    asked = Repository(reference, "pull,push", patience=Patience(0), public_only=True)
    with asked, pytest.raises(AddressForbidden, match="inside a private network"):
        asked.check_push()


def test_an_encrypted_connection_keeps_the_pace() -> None:
    stream, paced = dripping(10, 100)
    encrypted = paced.start_tls(ssl.create_default_context(), "host")
    with pytest.raises(httpcore2.TimeoutException):
        read_bytes(encrypted, 1000)
    assert stream.now_s < 20
