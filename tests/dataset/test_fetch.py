"""Downloads: whole, resumed, bounded, and honest about what went wrong."""

import hashlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contract.errors import DatasetUnreachable, DiskFull, DownloadFailed
from tasks.dataset.pod import fetch
from tasks.dataset.pod.fetch import Fetched, download, open_client
from tasks.dataset.pod.files import gather_files
from tests.dataset.disk import small_disk
from tests.dataset.web import HURRIED, Bench, Handler, Web

BODY = os.urandom(300_000)


def fetch_it(url: str, path: Path, *, max_bytes: int = 10**9) -> Fetched:
    with open_client(allow_local_addresses=True, patience=HURRIED) as client:
        return download(client, url, path=path, max_bytes=max_bytes, patience=HURRIED)


def test_a_file_arrives_whole_with_its_digest(web: Web, tmp_path: Path) -> None:
    got = fetch_it(web.serve_bytes("/a.bin", BODY), tmp_path / "a")
    assert got.path.read_bytes() == BODY
    assert got.sha256 == hashlib.sha256(BODY).hexdigest()
    assert not (tmp_path / "a.part").exists()


def test_a_cut_body_is_resumed_where_it_broke_off(web: Web, tmp_path: Path) -> None:
    url = web.serve(
        "/a", lambda h: h.cut(BODY, at=100_000, ETag='"1"'), lambda h: h.rest(BODY, ETag='"1"')
    )
    assert fetch_it(url, tmp_path / "a").path.read_bytes() == BODY
    assert web.asked[1]["Range"] == "bytes=100000-"
    assert web.asked[1]["If-Range"] == '"1"'


def test_a_second_start_resumes_the_part_of_the_first(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a", lambda h: h.cut(BODY, at=100_000, ETag='"1"'))
    with pytest.raises(DownloadFailed):
        fetch_it(url, tmp_path / "a")
    before = len(web.asked)
    web.serve("/a", lambda h: h.rest(BODY, ETag='"1"'))
    assert fetch_it(url, tmp_path / "a").path.read_bytes() == BODY
    assert web.asked[before]["Range"].startswith("bytes=")


@pytest.mark.parametrize("version", ["2", None])
def test_a_part_that_does_not_say_its_version_is_not_joined(
    web: Web, tmp_path: Path, version: str | None
) -> None:
    new = os.urandom(len(BODY))
    named = {"ETag": f'"{version}"'} if version else {}
    url = web.serve(
        "/a",
        lambda h: h.cut(BODY, at=100_000, ETag='"1"'),
        lambda h: h.rest(new, **named),
    )
    assert fetch_it(url, tmp_path / "a").path.read_bytes() == new


@pytest.mark.parametrize("obeys_if_range", [True, False])
def test_content_that_changed_between_two_parts_is_never_mixed(
    web: Web, tmp_path: Path, *, obeys_if_range: bool
) -> None:
    new = os.urandom(len(BODY))
    answers = [lambda h: h.cut(BODY, at=100_000, ETag='"1"')]
    if obeys_if_range:
        answers.append(lambda h: h.answer(200, new, ETag='"2"'))
    else:
        answers.append(lambda h: h.rest(new, ETag='"2"'))
    assert fetch_it(web.serve("/a", *answers), tmp_path / "a").path.read_bytes() == new


def test_a_file_that_became_shorter_than_its_part_is_fetched_anew(web: Web, tmp_path: Path) -> None:
    url = web.serve(
        "/a",
        lambda h: h.cut(BODY, at=200_000, ETag='"1"'),
        lambda h: h.answer(416),
        lambda h: h.answer(200, b"short"),
    )
    assert fetch_it(url, tmp_path / "a").path.read_bytes() == b"short"


def test_without_a_validator_a_broken_download_starts_over(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a", lambda h: h.cut(BODY, at=1000), lambda h: h.rest(BODY))
    assert fetch_it(url, tmp_path / "a").path.read_bytes() == BODY
    assert "Range" not in web.asked[1]


def test_a_body_that_is_always_cut_is_a_download_failure(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a", lambda h: h.cut(BODY, at=1000))
    with pytest.raises(DownloadFailed, match="kept happening; try again later"):
        fetch_it(url, tmp_path / "a")
    assert len(web.asked) == HURRIED.attempts


@pytest.mark.parametrize("length", [str(len(BODY)), ""], ids=["announced", "unannounced"])
def test_more_bytes_than_allowed_are_refused(web: Web, tmp_path: Path, length: str) -> None:
    url = web.serve("/a", lambda h: h.answer(200, BODY, Content_Length=length))
    with pytest.raises(DatasetUnreachable, match="more than the 1000 bytes"):
        fetch_it(url, tmp_path / "a", max_bytes=1000)
    assert not list(tmp_path.glob("a*.part"))


def test_a_finished_file_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    url = web.serve_bytes("/a", BODY)
    first, second = (fetch_it(url, tmp_path / "a") for _ in range(2))
    assert first == second
    assert len(web.asked) == 1


def test_a_damaged_finished_file_is_fetched_again(web: Web, tmp_path: Path) -> None:
    url = web.serve_bytes("/a", BODY)
    fetch_it(url, tmp_path / "a").path.write_bytes(b"scribbled over")
    assert fetch_it(url, tmp_path / "a").path.read_bytes() == BODY


def test_a_stale_file_is_compared_with_the_server(web: Web, tmp_path: Path) -> None:
    url = web.serve(
        "/a",
        lambda h: h.answer(200, BODY, ETag='"1"'),
        lambda h: h.answer(304 if h.headers["If-None-Match"] == '"1"' else 500, Content_Length=""),
    )
    fetch_it(url, tmp_path / "a")
    fetch.mark_stale(tmp_path / "a")
    assert fetch_it(url, tmp_path / "a").path.read_bytes() == BODY
    assert len(web.asked) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "answered 404 .*check the spelling of the address"),
        (410, "answered 410 .*still exists"),
        (403, "answered 403 .*without a login"),
        (401, "answered 401 .*without a login"),
        (418, "answered 418 .*open the address in a browser"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(
    web: Web, tmp_path: Path, status: int, words: str
) -> None:
    url = web.serve("/a", lambda h: h.answer(status))
    with pytest.raises(DatasetUnreachable, match=words):
        fetch_it(url, tmp_path / "a")
    assert len(web.asked) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_fault_of_the_server_is_tried_again(
    web: Web, tmp_path: Path, status: int
) -> None:
    url = web.serve("/a", lambda h: h.answer(status), lambda h: h.answer(200, BODY))
    assert fetch_it(url, tmp_path / "a").bytes == len(BODY)


def test_a_lasting_fault_of_the_server_is_a_retryable_failure(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a", lambda h: h.answer(502))
    with pytest.raises(DownloadFailed, match="answered 502 Bad Gateway, and it kept") as failure:
        fetch_it(url, tmp_path / "a")
    assert failure.value.retryable


def test_a_refused_connection_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DatasetUnreachable, match="connection was refused; check the spelling"):
        fetch_it(f"http://127.0.0.1:{port}/a", tmp_path / "a")


def test_an_unknown_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreachable, match=r"not found \(nowhere\.invalid\)"):
        fetch_it("http://nowhere.invalid/a", tmp_path / "a")


def test_a_proxy_that_is_not_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden@proxy.invalid:3128")
    with pytest.raises(DatasetUnreachable, match="HTTPS_PROXY is set; .* without a proxy") as told:
        fetch_it("http://nowhere.invalid/a", tmp_path / "a")
    assert "hidden" not in str(told.value)


def test_an_address_whose_permission_has_expired_is_told(web: Web, tmp_path: Path) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    url = web.serve("/a", lambda h: h.answer(403, body))
    with pytest.raises(DatasetUnreachable, match="address has expired; ask for a new address"):
        fetch_it(url, tmp_path / "a")


def test_a_body_that_only_drips_is_given_up(web: Web, tmp_path: Path) -> None:
    def drip(handler: Handler) -> None:
        handler.answer(200, Content_Length="1000")
        for _ in range(50):
            handler.wfile.write(b"x")
            time.sleep(0.02)

    patience = replace(HURRIED, attempts=1, slow_window_s=0.05, slow_window_bytes=1)
    patience = replace(patience, rate_after_s=0.1, least_bytes_per_s=1000)
    url = web.serve("/a", drip)
    with (
        open_client(allow_local_addresses=True) as client,
        pytest.raises(DownloadFailed, match="the server sends too slowly"),
    ):
        download(client, url, path=tmp_path / "a", max_bytes=10**9, patience=patience)


def early_hints(handler: Handler) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        time.sleep(0.01)


def header_lines(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-Again: 1\r\n")
        time.sleep(0.01)


def slow_redirects(handler: Handler) -> None:
    time.sleep(0.06)
    handler.answer(302, Location="/a")


@pytest.mark.parametrize("never_begin", [early_hints, header_lines, slow_redirects])
def test_a_body_that_never_begins_is_given_up(
    web: Web, tmp_path: Path, never_begin: Callable[[Handler], None]
) -> None:
    patience = replace(HURRIED, attempts=1, begins_within_s=0.2)
    url = web.serve("/a", never_begin)
    with (
        open_client(allow_local_addresses=True) as client,
        pytest.raises(DownloadFailed, match="the server did not answer in time"),
    ):
        download(client, url, path=tmp_path / "a", max_bytes=10**9, patience=patience)


def test_a_body_may_last_longer_than_it_may_take_to_begin(web: Web, tmp_path: Path) -> None:
    def late(handler: Handler) -> None:
        handler.answer(200, b"a", Content_Length="2")
        time.sleep(0.3)
        handler.wfile.write(b"b")

    patience = replace(HURRIED, attempts=1, begins_within_s=0.2)
    url = web.serve("/a", late)
    with open_client(allow_local_addresses=True) as client:
        download(client, url, path=tmp_path / "a", max_bytes=10**9, patience=patience)
    assert (tmp_path / "a").read_bytes() == b"ab"


def test_redirects_are_followed(web: Web, tmp_path: Path) -> None:
    web.serve_bytes("/b", BODY)
    url = web.serve("/a", lambda h: h.answer(302, Location="/b"))
    assert fetch_it(url, tmp_path / "a").bytes == len(BODY)


def test_redirects_in_a_circle_end(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a", lambda h: h.answer(302, Location="/a"))
    with pytest.raises(DatasetUnreachable, match="more than 10 redirects"):
        fetch_it(url, tmp_path / "a")


def test_a_redirect_to_a_local_file_is_refused(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a", lambda h: h.answer(302, Location="file:///etc/passwd"))
    with pytest.raises(DatasetUnreachable, match=r"not http or https \(file:\)"):
        fetch_it(url, tmp_path / "a")


def test_no_secret_of_the_address_is_shown(web: Web, tmp_path: Path) -> None:
    web.serve("/a", lambda h: h.answer(403))
    url = web.address.replace("//", "//user:hidden1@") + "/a?token=hidden2"
    with pytest.raises(DatasetUnreachable) as failure:
        fetch_it(url, tmp_path / "a")
    kept = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "hidden" not in str(failure.value) + kept


@pytest.mark.parametrize(
    "url",
    [
        "file:///nowhere/a.csv?sig=hidden",
        "file:///nowhere/a.csv#hidden",
        "file://user:hidden@host/a.csv",
        "http://user:hid?den@host/a",
        "http://user:hidden/x@host/a",
        "http://host:bad/a?sig=a@hidden",
        "http://host:bad/a#hidden",
    ],
)
def test_no_secret_of_an_address_that_is_refused_is_shown(bench: Bench, url: str) -> None:
    with pytest.raises(DatasetUnreachable) as failure:
        gather_files(bench.config(url), patience=HURRIED)
    assert "hid" not in str(failure.value)


def test_equal_names_at_two_addresses_are_two_files(web: Web, bench: Bench) -> None:
    urls = [web.serve_bytes("/x/data.csv", b"one"), web.serve_bytes("/y/data.csv", b"two")]
    files = gather_files(bench.config(urls[0] + "?sig=1", urls[1]), patience=HURRIED)
    assert [file.path.read_bytes() for file in files] == [b"one", b"two"]
    assert [file.name for file in files] == ["001-data.csv", "002-data.csv"]


def test_the_size_cap_is_for_all_files_together(web: Web, bench: Bench) -> None:
    urls = [web.serve_bytes(f"/{name}", b"x" * 600) for name in "ab"]
    with pytest.raises(DatasetUnreachable, match="more than the 400 bytes"):
        gather_files(bench.config(*urls, max_bytes=1000), patience=HURRIED)


def test_a_full_disk_keeps_the_part_for_the_next_start(web: Web, bench: Bench) -> None:
    headers = {"Content_Length": "", "ETag": '"1"'}
    url = web.serve("/a", lambda h: h.answer(200, BODY, **headers))
    data = bench.folder / "data"
    with small_disk(data):
        with pytest.raises(DiskFull, match=r"a\.part; no space is left"):
            gather_files(bench.config(url), patience=HURRIED)
        assert 0 < (data / "raw" / "001-a.part").stat().st_size <= 256 * 1024


def test_a_file_larger_than_the_disk_is_not_begun(web: Web, bench: Bench) -> None:
    size = str(10**15)
    url = web.serve("/a", lambda h: h.answer(200, b"x", Content_Length=size))
    with pytest.raises(DiskFull, match="953674316 MiB are needed"):
        gather_files(bench.config(url, max_bytes=10**16), patience=HURRIED)


def test_progress_tells_bytes_and_total(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tasks.dataset.pod.progress import Progress

    with open_client(allow_local_addresses=True) as client:
        url = web.serve_bytes("/a", BODY)
        progress = Progress(every_s=0)
        download(client, url, path=tmp_path / "a", max_bytes=10**9, progress=progress)
    assert f'"bytes": {len(BODY)}, "total": {len(BODY)}' in capsys.readouterr().out


def test_a_file_address_needs_permission(bench: Bench) -> None:
    url = bench.file("a.txt", b"hello")
    with pytest.raises(DatasetUnreachable, match="file: addresses are not allowed here"):
        gather_files(bench.config(url, allow_files=False))


def test_a_missing_file_is_told(bench: Bench) -> None:
    with pytest.raises(DatasetUnreachable, match="there is no such file; check the path"):
        gather_files(bench.config("file:///nowhere/a.csv"))


def test_a_folder_gives_its_data_files_sorted(bench: Bench) -> None:
    folder = bench.folder / "volume"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.csv", "README.md", ".hidden", "deep/c.txt"):
        (folder / name).write_text("x")
    files = gather_files(bench.config(source_dir=folder))
    assert [file.name for file in files] == ["a.csv", "b.jsonl", "deep/c.txt"]


def test_neither_address_nor_folder_is_refused(bench: Bench) -> None:
    with pytest.raises(DatasetUnreachable, match=r"set tuning\.input\.urls"):
        gather_files(bench.config())
