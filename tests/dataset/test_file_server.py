"""A file's server is asked what it has, and none of the file is read."""

import logging
import threading

import pytest

from tasks.contract.errors import AddressForbidden, DatasetUnreachable, DownloadFailed
from tasks.remote.file_server import UrlProbe, open_client, probe
from tests.cluster.ports import free_port
from tests.dataset.web import Handler, Web


def asked(url: str, *, allow_local_addresses: bool = True) -> UrlProbe:
    with open_client(allow_local_addresses=allow_local_addresses) as client:
        return probe(client, url)


def test_a_large_file_is_not_read(web: Web) -> None:
    goes_on = threading.Event()

    def begin(handler: Handler) -> None:
        handler.answer(200, b"x", Content_Length=str(10**9))
        goes_on.wait(20)

    url = web.serve("/large", begin)
    try:
        assert asked(url).bytes == 10**9
    finally:
        goes_on.set()


def test_a_server_that_says_no_size_is_no_fault(web: Web) -> None:
    assert asked(web.serve_bytes("/a", b"x", Content_Length="")).bytes is None


def test_a_page_for_people_is_told_from_a_file(web: Web) -> None:
    page = web.serve_bytes("/a", b"<html>", Content_Type="text/html; charset=utf-8")
    assert asked(page).is_web_page
    assert not asked(web.serve_bytes("/b", b"x", Content_Type="text/csv")).is_web_page


def test_what_is_absent_is_unreachable(web: Web) -> None:
    url = web.serve("/a", lambda handler: handler.answer(404))
    with pytest.raises(DatasetUnreachable, match="404 Not Found; check the spelling"):
        asked(url)


def test_nobody_there_may_be_a_fault_that_passes() -> None:
    with pytest.raises(DownloadFailed, match="connection was refused"):
        asked(f"http://127.0.0.1:{free_port()}/a")


def test_inside_addresses_are_not_asked(web: Web) -> None:
    url = web.serve_bytes("/a", b"x")
    with pytest.raises(AddressForbidden, match="this machine itself"):
        asked(url, allow_local_addresses=False)
    assert web.asked == []


def test_what_an_address_may_hide_is_not_logged(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = web.serve_bytes("/a", b"x").replace("//", "//user:canary-password@")
    asked(f"{url}?sig=canary-signature")
    assert "canary" not in caplog.text
