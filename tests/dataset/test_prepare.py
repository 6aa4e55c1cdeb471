"""The whole step: what lies on the disk after it, what it reports, and when it stops the run."""

import gzip
import io
import json
import os
import statistics
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.docstrings import write_docstring_dataset
from tasks.contract.errors import (
    DatasetRowsInvalid,
    DatasetUnreachable,
    DatasetUnreadable,
    DiskFull,
)
from tasks.contract.programs.dataset import DatasetColumns
from tasks.dataset.pod import prepare
from tasks.dataset.pod.prepare import prepare_dataset, spread
from tests.dataset.disk import small_disk
from tests.dataset.web import Bench, Web, chat, jsonl

BAD = {"messages": [{"role": "user", "content": "alone"}]}


def run(bench: Bench, *urls: str) -> subprocess.CompletedProcess[str]:
    config = bench.config(*urls)
    fields = {
        "urls": urls,
        "data_dir": str(config.data_dir),
        "weights_dir": str(config.weights_dir),
        "allow_files": True,
    }
    path = bench.folder / "config.json"
    path.write_text(json.dumps(fields))
    command = [sys.executable, "-m", "tasks.dataset.pod", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_rows_are_written_counted_and_reported(bench: Bench) -> None:
    content = jsonl(chat("a", "b"), chat("a b c", "d"), chat("a", "b"))
    report = bench.prepare("data.jsonl", content, max_length=9)
    assert bench.rows() == [chat("a", "b"), chat("a b c", "d"), chat("a", "b")]
    assert report["tokens"] == {"total": 26, "min": 8, "median": 8, "p95": 10, "max": 10}
    assert (report["rows"], report["truncated_rows"], report["duplicate_rows"]) == (3, 1, 1)
    assert json.loads((bench.folder / "data" / "report.json").read_text()) == report


def test_the_tokens_that_are_learned_are_counted_by_their_share_of_the_text(bench: Bench) -> None:
    row = {"prompt": "a b c ", "completion": "d e f"}
    report = bench.prepare("data.jsonl", jsonl(row, row))
    assert report["answer_tokens"] == round(report["tokens"]["total"] * 5 / 11)


def test_nothing_but_the_result_is_left_behind(bench: Bench) -> None:
    bench.prepare("data.jsonl", jsonl(chat()))
    assert {path.name for path in (bench.folder / "data").iterdir()} == {
        "train.jsonl",
        "report.json",
    }


def test_a_file_is_reported_without_the_secrets_of_its_address(web: Web, bench: Bench) -> None:
    url = web.serve_bytes("/data.jsonl", jsonl(chat())) + "?sig=hidden"
    report = prepare_dataset(bench.config(url))
    assert report["files"][0]["url"] == url.partition("?")[0]
    assert report["files"][0]["name"] == "data.jsonl"
    assert "hidden" not in (bench.folder / "data" / "report.json").read_text()


def test_all_files_are_used_in_order(bench: Bench) -> None:
    urls = [bench.file("b.jsonl", jsonl(chat("b"))), bench.file("a.txt", b"last\n")]
    report = prepare_dataset(bench.config(*urls))
    assert bench.rows() == [chat("b"), {"text": "last"}]
    assert [file["format"] for file in report["files"]] == ["jsonl", "txt"]


def test_the_digest_depends_on_bytes_and_order(bench: Bench) -> None:
    urls = [bench.file("a.jsonl", jsonl(chat("a"))), bench.file("b.jsonl", jsonl(chat("b")))]
    orders = (urls, urls[::-1], urls)
    first, turned, again = (prepare_dataset(bench.config(*order))["digest"] for order in orders)
    assert first == again != turned


def test_columns_that_are_not_used_are_reported_with_the_rows_that_fill_them(bench: Bench) -> None:
    rows = [chat() | {"id": n, "note": "x" if n else None} for n in range(3)]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([chat() | {"source": "web"}] * 2), table)
    urls = [bench.file("a.jsonl", jsonl(*rows)), bench.file("b.parquet", table.getvalue())]
    assert prepare_dataset(bench.config(*urls))["unused_columns"] == [
        {"name": "id", "rows": 3},
        {"name": "note", "rows": 2},
        {"name": "source", "rows": 2},
    ]


def test_keys_that_are_data_do_not_fill_the_report(bench: Bench) -> None:
    rows = [chat() | {f"k{n}": 1} for n in range(prepare.LISTED_COLUMNS + 7)]
    unused = bench.prepare("data.jsonl", jsonl(*rows))["unused_columns"]
    assert len(unused) == prepare.LISTED_COLUMNS + 1
    assert {"name": prepare.OTHER_COLUMNS, "rows": 7} in unused


def test_configured_columns_are_used(bench: Bench) -> None:
    columns = DatasetColumns(context="q", response="a")
    bench.prepare("data.csv", b"q,a\nwhy,because\n", columns=columns)
    assert bench.rows() == [chat("why", "because")]


def test_one_bad_row_stops_the_run_and_tells_where_and_why(bench: Bench) -> None:
    with pytest.raises(DatasetRowsInvalid) as failure:
        bench.prepare("data.jsonl", jsonl(chat(), chat(), BAD, chat()))
    assert str(failure.value).startswith(
        "1 of 4 rows cannot be trained on; data.jsonl row 3: messages has no assistant turn"
    )
    assert 'kaitoflow.io/bad-rows-tolerance: "0.25"' in str(failure.value)
    assert not (bench.folder / "data" / "train.jsonl").exists()


def test_bad_rows_within_the_tolerance_are_left_out_and_listed(bench: Bench) -> None:
    content = jsonl(*[chat()] * 75, *[BAD] * 25)
    report = bench.prepare("data.jsonl", content, bad_rows_tolerance=0.25)
    assert (report["rows"], report["bad_rows"]["total"]) == (75, 25)
    assert [bad["row"] for bad in report["bad_rows"]["listed"]] == list(range(76, 96))


def test_bad_rows_above_the_tolerance_stop_the_run(bench: Bench) -> None:
    with pytest.raises(DatasetRowsInvalid, match=r"2 of 4 rows"):
        bench.prepare("data.jsonl", jsonl(chat(), BAD, BAD, chat()), bad_rows_tolerance=0.49)


def test_only_bad_rows_are_refused_whatever_the_tolerance(bench: Bench) -> None:
    with pytest.raises(DatasetRowsInvalid, match=r"6 of 6 rows.*; and 1 more; fix the rows$"):
        bench.prepare("data.jsonl", jsonl(*[BAD] * 6), bad_rows_tolerance=1.0)


def test_a_header_without_rows_is_refused(bench: Bench) -> None:
    with pytest.raises(DatasetRowsInvalid, match="there is not a single row; add rows"):
        bench.prepare("data.csv", b"question,answer\n", bad_rows_tolerance=1.0)


def test_a_conversation_that_the_model_cannot_hold_is_a_bad_row(bench: Bench) -> None:
    turns = [{"role": "tool", "content": "x"}, *chat()["messages"]]
    with pytest.raises(DatasetRowsInvalid, match=r"chat template refuses it .*no tools here"):
        bench.prepare("data.jsonl", jsonl({"messages": turns}))


def test_a_row_that_no_context_holds_is_a_bad_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "ROW_CHARS", 100)
    with pytest.raises(DatasetRowsInvalid, match=r"data\.jsonl row 2: it has \d+ characters"):
        bench.prepare("data.jsonl", jsonl(chat(), chat("w " * 100)))


def test_what_is_written_counts_against_the_limit_too(bench: Bench) -> None:
    out = io.BytesIO()
    rows = [{"prompt": "q" * 1000, "completion": "a"}] * 500
    pq.write_table(pa.Table.from_pylist(rows), out)
    assert len(out.getvalue()) < 100_000
    with pytest.raises(DatasetUnreadable, match=r"train\.jsonl; they have more than 100000 bytes"):
        bench.prepare("data.parquet", out.getvalue(), max_bytes=100_000)


def test_what_is_written_is_counted_in_bytes(bench: Bench) -> None:
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"text": "é" * 9_000}] * 5), table)
    with pytest.raises(DatasetUnreadable, match="more than 60000 bytes"):
        bench.prepare("data.parquet", table.getvalue(), max_bytes=60_000)


@pytest.mark.parametrize("rows", [[chat()] * 4, [chat(), BAD, BAD, BAD]])
def test_more_rows_than_a_dataset_may_have_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rows: list[object]
) -> None:
    monkeypatch.setattr(prepare, "MAX_ROWS", 3)
    with pytest.raises(DatasetUnreadable, match="more than 3 rows.*use fewer rows"):
        bench.prepare("data.jsonl", jsonl(*rows))


@pytest.mark.parametrize("name", ["data#1.jsonl", "data?.jsonl"])
def test_a_file_with_a_mark_of_addresses_in_its_name_is_read(bench: Bench, name: str) -> None:
    (bench.folder / name).write_bytes(jsonl(chat()))
    assert prepare_dataset(bench.config(f"file://{bench.folder / name}"))["rows"] == 1


def test_the_page_about_a_file_is_told_with_the_files_own_address(web: Web, bench: Bench) -> None:
    url = web.serve_bytes("/org/data/blob/main/a.jsonl", b"<!doctype html><title>a</title>")
    with pytest.raises(DatasetUnreadable, match=r"own address: http://.*/org/data/resolve/main/a"):
        prepare_dataset(bench.config(url))


def test_a_single_line_of_text_from_a_server_is_not_trained_on(web: Web, bench: Bench) -> None:
    url = web.serve_bytes("/data", b"Invalid or expired token\n")
    with pytest.raises(DatasetUnreadable, match="a single line of text; open the address"):
        prepare_dataset(bench.config(url))
    web.serve_bytes("/data", b"Once upon a time\nthere was a file\n")
    assert prepare_dataset(bench.config(url))["rows"] == 2


def test_a_second_start_returns_the_report_without_asking_the_server(
    web: Web, bench: Bench
) -> None:
    config = bench.config(web.serve_bytes("/data.jsonl", jsonl(chat())))
    first = prepare_dataset(config)
    written = (bench.folder / "data" / "train.jsonl").stat().st_mtime_ns
    assert prepare_dataset(config) == first
    assert len(web.asked) == 1
    assert (bench.folder / "data" / "train.jsonl").stat().st_mtime_ns == written


def test_a_changed_file_of_the_user_is_noticed(bench: Bench) -> None:
    first = bench.prepare("data.jsonl", jsonl(chat("a")))
    second = bench.prepare("data.jsonl", jsonl(chat("b")))
    assert first["digest"] != second["digest"]
    assert bench.rows() == [chat("b")]


@pytest.mark.parametrize("changes", [{"max_length": 2048}, {"columns": DatasetColumns(text="x")}])
def test_other_arguments_make_another_report(bench: Bench, changes: dict[str, object]) -> None:
    content = jsonl(chat() | {"x": "y"})
    first = bench.prepare("data.jsonl", content)
    assert bench.prepare("data.jsonl", content, **changes) != first


def test_damaged_rows_on_the_disk_are_made_again(bench: Bench) -> None:
    bench.prepare("data.jsonl", jsonl(chat()))
    (bench.folder / "data" / "train.jsonl").write_text("cut")
    bench.prepare("data.jsonl", jsonl(chat()))
    assert bench.rows() == [chat()]


def test_what_was_unusable_is_asked_for_anew(web: Web, bench: Bench) -> None:
    page = b"<!doctype html><title>Sign in</title>"
    config = bench.config(web.serve_bytes("/data.jsonl", page, ETag='"1"'))
    with pytest.raises(DatasetUnreadable, match="HTML page, often a login"):
        prepare_dataset(config)
    web.serve_bytes("/data.jsonl", jsonl(chat()), ETag='"2"')
    assert prepare_dataset(config)["rows"] == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(bench: Bench) -> None:
    row = jsonl(chat("x", "w " * 2000))
    url = bench.file("data.jsonl", row * 4000)
    tracemalloc.start()
    try:
        prepare_dataset(bench.config(url, max_length=4096))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(row) * 4000 // 2


@pytest.mark.parametrize("name", ["train.jsonl", "unpacked"])
def test_a_full_disk_is_told_and_leaves_nothing_partial(bench: Bench, name: str) -> None:
    content = jsonl(*[chat(os.urandom(500).hex()) for _ in range(3000)])
    packed = name == "unpacked"
    url = bench.file("data.jsonl", gzip.compress(content) if packed else content)
    with small_disk(bench.folder / "data"):
        with pytest.raises(DiskFull, match=f"{name}.tmp; no space is left .*free some space"):
            prepare_dataset(bench.config(url))
        assert not list((bench.folder / "data").iterdir())


def test_the_program_ends_with_a_result(bench: Bench) -> None:
    ended = run(bench, bench.file("data.jsonl", jsonl(chat())))
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert (result["event"], result["rows"]) == ("result", 1)


def test_the_program_ends_with_a_verdict(bench: Bench) -> None:
    ended = run(bench, bench.file("data.jsonl", jsonl(BAD)))
    assert ended.returncode == 3
    verdict = json.loads(ended.stdout.splitlines()[-1])
    assert (verdict["event"], verdict["reason"]) == ("verdict", "DatasetRowsInvalid")


def test_the_program_needs_no_transformers(bench: Bench) -> None:
    check = "import sys, tasks.dataset.pod.prepare; print('transformers' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "False"


def test_the_demo_dataset_is_accepted(bench: Bench, smollm2_weights: Path) -> None:
    write_docstring_dataset(bench.folder / "demo.parquet", rows=50, seed=0)
    url = (bench.folder / "demo.parquet").as_uri()
    report = prepare_dataset(bench.config(url, weights_dir=smollm2_weights))
    assert (report["rows"], report["bad_rows"]["total"]) == (50, 0)
    assert 30 < report["tokens"]["median"] < 120


def test_an_inside_address_stops_the_run(bench: Bench) -> None:
    with pytest.raises(DatasetUnreachable, match="this machine itself"):
        prepare_dataset(bench.config("http://127.0.0.1:9/a", allow_local_addresses=False))


@pytest.mark.parametrize("lengths", [[5], [3, 1], [1, 2, 3, 4, 10], list(range(1, 101))])
def test_the_spread_of_lengths_is_that_of_the_list(lengths: list[int]) -> None:
    found = spread(Counter(lengths))
    assert found["median"] == statistics.median(lengths)
    assert found["total"] == sum(lengths)
    assert found["p95"] == sorted(lengths)[-(-95 * len(lengths) // 100) - 1]
