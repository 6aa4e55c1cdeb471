"""No download reaches an inside address, however it is written or hidden."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from tasks.contract.errors import DatasetUnreachable
from tasks.dataset.pod.fetch import download, open_client
from tasks.remote.guard import GuardedBackend, why_refused
from tests.dataset.web import HURRIED, Web

INSIDE = """127.0.0.1 127.9.9.9 10.0.0.1 172.16.3.4 192.168.1.1 169.254.169.254 100.64.0.1
0.0.0.0 255.255.255.255 224.0.0.1 168.63.129.16 ::1 :: fe80::1 fc00::1 fd00:ec2::254 ff02::1
::ffff:127.0.0.1
::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2002:a00:1::""".split()


def fetch_it(url: str, path: Path) -> None:
    with open_client(allow_local_addresses=False, patience=HURRIED) as client:
        download(client, url, path=path, max_bytes=10**6, patience=HURRIED)


@pytest.mark.parametrize("address", INSIDE)
def test_an_inside_address_is_refused(address: str) -> None:
    assert why_refused(ip_address(address), allow_local_addresses=False)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "::ffff:8.8.8.8"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert why_refused(ip_address(address), allow_local_addresses=False) is None


@pytest.mark.parametrize(
    "address",
    """169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 192.0.0.192
    169.254.0.23 169.254.42.42 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42
    ::ffff:169.254.169.254 64:ff9b::169.254.170.23 2002:a9fe:aa17::""".split(),
)
def test_a_metadata_service_is_refused_even_where_local_addresses_are_allowed(
    address: str,
) -> None:
    assert why_refused(ip_address(address), allow_local_addresses=True) == "a metadata service"


@pytest.mark.parametrize(
    "host",
    """127.0.0.1 [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] 2130706433 0x7f000001 0177.0.0.1 127.1 0
    localhost LOCALHOST localhost. a.localhost 10.1.2.3 [fd00::1] metadata.google.internal
    169.254.169.254""".split(),
)
def test_every_spelling_of_an_inside_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(DatasetUnreachable):
        fetch_it(f"http://{host}:9/a", tmp_path / "a")


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1"])
def test_a_number_that_means_this_machine_is_refused_for_that(tmp_path: Path, host: str) -> None:
    with pytest.raises(DatasetUnreachable, match="this machine itself, which is not allowed"):
        fetch_it(f"http://{host}:9/a", tmp_path / "a")


def test_a_redirect_to_the_metadata_service_is_refused(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a", lambda h: h.answer(302, Location="http://169.254.169.254/latest"))
    with (
        open_client(allow_local_addresses=True, patience=HURRIED) as client,
        pytest.raises(DatasetUnreachable, match=r"a metadata service.*use a public address"),
    ):
        download(client, url, path=tmp_path / "a", max_bytes=10**6, patience=HURRIED)


def test_a_name_with_one_inside_address_among_public_ones_is_refused() -> None:
    backend = GuardedBackend(resolve=lambda host, port: ["93.184.215.14", "10.0.0.8"])
    with pytest.raises(DatasetUnreachable, match=r"10\.0\.0\.8, an address inside a private"):
        backend.connect_tcp("data.example.com", 80)


def test_a_name_is_resolved_once_and_its_checked_address_is_used(web: Web, tmp_path: Path) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    url = web.serve_bytes("/a", b"x").replace("127.0.0.1", "data.example.com")
    with open_client(allow_local_addresses=True, resolve=resolve) as client:
        download(client, url, path=tmp_path / "a", max_bytes=10**6)
    assert asked == ["data.example.com"]


def test_a_name_that_turns_inside_at_the_second_answer_gains_nothing(
    web: Web, tmp_path: Path
) -> None:
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    url = web.serve("/a", lambda h: h.answer(302, Location="http://other.example.com/b"))
    url = url.replace("127.0.0.1", "data.example.com")
    with (
        open_client(allow_local_addresses=True, resolve=lambda host, port: next(answers)) as client,
        pytest.raises(DatasetUnreachable, match="a metadata service"),
    ):
        download(client, url, path=tmp_path / "a", max_bytes=10**6, patience=HURRIED)


def test_proxy_variables_are_not_followed(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with open_client(allow_local_addresses=True, patience=HURRIED) as client:
        got = download(
            client, web.serve_bytes("/a", b"x"), path=tmp_path / "a", max_bytes=9, patience=HURRIED
        )
    assert got.bytes == 1
