"""A look tells what servers say of a dataset, and reads none of it."""

import threading

import pytest

from tasks.contract.errors import AddressForbidden, DatasetUnreachable, DownloadFailed
from tasks.contract.programs.dataset import LookConfig, LookResult
from tasks.dataset.pod.look import look
from tests.cluster.ports import free_port
from tests.dataset.web import Handler, Web


def here(*urls: str) -> LookConfig:
    return LookConfig(urls=urls, allow_local_addresses=True)


def test_each_file_s_size_is_told_in_order(web: Web) -> None:
    urls = web.serve_bytes("/a", b"x" * 10), web.serve_bytes("/b", b"x" * 2000)
    assert look(here(*urls)) == LookResult(bytes=(10, 2000), web_pages=())


def test_a_large_file_is_not_read(web: Web) -> None:
    goes_on = threading.Event()

    def begin(handler: Handler) -> None:
        handler.answer(200, b"x", Content_Length=str(10**9))
        goes_on.wait(20)

    url = web.serve("/large", begin)
    try:
        assert look(here(url)).bytes == (10**9,)
    finally:
        goes_on.set()


def test_a_server_that_says_no_size_is_no_fault(web: Web) -> None:
    url = web.serve_bytes("/a", b"x", Content_Length="")
    assert look(here(url)).bytes == (None,)


def test_a_web_page_is_named_without_what_may_be_secret(web: Web) -> None:
    url = web.serve_bytes("/blob/a.parquet", b"<html>", Content_Type="text/html; charset=utf-8")
    assert look(here(f"{url}?token=s3cret")).web_pages == (url,)


def test_what_is_absent_is_unreachable(web: Web) -> None:
    url = web.serve("/a", lambda handler: handler.answer(404))
    with pytest.raises(DatasetUnreachable, match="404 Not Found; check the spelling"):
        look(here(web.serve_bytes("/there", b"x"), url))


def test_nobody_there_may_be_a_fault_that_passes() -> None:
    with pytest.raises(DownloadFailed, match="connection was refused"):
        look(here(f"http://127.0.0.1:{free_port()}/a"))


def test_inside_addresses_are_not_asked(web: Web) -> None:
    url = web.serve_bytes("/a", b"x")
    with pytest.raises(AddressForbidden, match="this machine itself"):
        look(LookConfig(urls=(url,)))
    assert web.asked == []
