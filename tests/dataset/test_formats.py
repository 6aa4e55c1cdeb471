"""Every format gives its rows; whatever is wrong with a file is told, and nothing else raised."""

import csv
import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.contract.errors import DatasetUnreadable
from tasks.dataset.pod import formats
from tasks.dataset.pod.formats import open_rows
from tasks.dataset.pod.rows import BadRow, Row
from tasks.dataset.pod.shapes import KNOWN_COLUMNS
from tests.dataset.web import jsonl

ROWS = [{"question": f"what is {n}", "answer": f"it is\n{n} é"} for n in range(20)]


def read(folder: Path, content: bytes, name: str = "data") -> tuple[str, list[Row | BadRow]]:
    path = folder / "file"
    path.write_bytes(content)
    with open_rows(
        path, name, columns=KNOWN_COLUMNS, unpack_to=folder / "unpacked", max_bytes=10**7
    ) as source:
        return source.format, list(source.rows)


def values(rows: list[Row | BadRow]) -> list[object]:
    return [dict(row.values) if isinstance(row, Row) else row.reason for row in rows]


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out, row_group_size=7)
    return out.getvalue()


def as_arrow(new: Any) -> bytes:
    table, out = pa.Table.from_pylist(ROWS), io.BytesIO()
    with new(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return out.getvalue()


def as_csv(delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


SAMPLES = {
    "parquet": as_parquet(),
    "arrow": as_arrow(pa.ipc.new_file),
    "arrow-stream": as_arrow(pa.ipc.new_stream),
    "json": json.dumps(ROWS).encode(),
    "jsonl": jsonl(*ROWS),
    "csv": as_csv(),
}


@pytest.mark.parametrize("form", SAMPLES)
def test_every_format_gives_the_same_rows(tmp_path: Path, form: str) -> None:
    found, rows = read(tmp_path, SAMPLES[form])
    assert (found, values(rows)) == (form, ROWS)
    assert [row.number for row in rows] == list(range(1, 21))


@pytest.mark.parametrize("form", SAMPLES)
@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_every_format_may_be_packed(tmp_path: Path, form: str, packing: str) -> None:
    pack = gzip.compress if packing == "gzip" else zstandard.compress
    found, rows = read(tmp_path, pack(SAMPLES[form]))
    assert (found, values(rows)) == (f"{packing} {form}", ROWS)
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_csv_is_found(tmp_path: Path, delimiter: str) -> None:
    assert values(read(tmp_path, as_csv(delimiter))[1]) == ROWS


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, form: str) -> None:
    assert values(read(tmp_path, b"\xef\xbb\xbf" + SAMPLES[form])[1]) == ROWS


def test_csv_with_unknown_columns_is_still_csv(tmp_path: Path) -> None:
    form, rows = read(tmp_path, b"q,a\nx,y\nz,w\n")
    assert (form, values(rows)) == ("csv", [{"q": "x", "a": "y"}, {"q": "z", "a": "w"}])


def test_a_csv_row_of_another_width_is_a_bad_row(tmp_path: Path) -> None:
    _, rows = read(tmp_path, b"question,answer\na,b,c\nd,e\n")
    assert rows[0] == BadRow(1, "it has 3 fields, the header has 2")


def test_a_spreadsheets_empty_columns_are_left_out(tmp_path: Path) -> None:
    _, rows = read(tmp_path, b"question,answer,,\r\na,b,,\r\nc,d\r\ne,f,g,\r\n")
    assert values(rows) == [
        {"question": "a", "answer": "b"},
        {"question": "c", "answer": "d"},
        "it has 3 fields, the header has 2",
    ]


def test_a_number_of_too_many_digits_is_told_as_such(tmp_path: Path) -> None:
    huge = b'{"text": "a", "id": ' + b"9" * 5000 + b"}\n"
    _, rows = read(tmp_path, jsonl({"text": "b"}) + huge)
    assert values(rows)[1] == "the line is not JSON (a number of too many digits)"
    with pytest.raises(DatasetUnreadable, match="a number has too many digits"):
        read(tmp_path, b"[" + huge + b"]")


@pytest.mark.parametrize(
    "side", [pa.array([2932897], pa.date32()), pa.array([0], pa.timestamp("us", "Etc/Nowhere"))]
)
def test_a_column_that_nobody_asks_for_may_be_unreadable(tmp_path: Path, side: Any) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"Prompt": ["q"], "completion": ["a"], "side": side}), out)
    assert values(read(tmp_path, out.getvalue())[1]) == [{"Prompt": "q", "completion": "a"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.json.gz"])
def test_a_sentence_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetUnreadable, match="plain text, though its name promises"):
        read(tmp_path, b"Invalid or expired token", name)


def test_text_is_one_row_a_line_without_blank_ones(tmp_path: Path) -> None:
    form, rows = read(tmp_path, b"Once upon a time, there was.\r\n\nThe end\n")
    assert form == "txt"
    assert rows == [
        Row(1, {"text": "Once upon a time, there was."}),
        Row(3, {"text": "The end"}),
    ]


def test_an_object_with_one_list_gives_its_items(tmp_path: Path) -> None:
    content = json.dumps({"version": {"n": [1]}, "data": ROWS, "more": "x"}, indent=2)
    assert values(read(tmp_path, content.encode())[1]) == ROWS


def test_one_line_that_looks_like_a_row_is_jsonl(tmp_path: Path) -> None:
    form, rows = read(tmp_path, b'{"messages": [{"role": "user", "content": "hi"}]}')
    assert (form, len(rows)) == ("jsonl", 1)


def test_json_values_larger_than_a_piece_are_read_whole(tmp_path: Path) -> None:
    rows = [{"text": "é" * 200_000}, {"text": "b"}]
    assert values(read(tmp_path, json.dumps(rows, ensure_ascii=False).encode())[1]) == rows


def test_a_line_that_is_no_json_object_is_a_bad_row_with_its_number(tmp_path: Path) -> None:
    _, rows = read(tmp_path, b'{"text": "a"}\n\n{"text": \n[1]\n{"text": "b"}\n')
    assert [row.number for row in rows] == [1, 3, 4, 5]
    assert values(rows)[1:3] == [
        "the line is not JSON (Expecting value)",
        "it is a list, not an object with named columns",
    ]


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.csv", "text\nhi\n")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty; give a file with rows"),
        (b" \n\n", "it is empty"),
        (gzip.compress(b"", mtime=0), "it is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "HTML page, often a login.*needs no login"),
        (b"\n<HTML><body>", "HTML page"),
        (b'<div class="login"><form action="/in">Sign in</form></div>', "HTML page"),
        (b"<h1>Sign in</h1>", "HTML page"),
        (b'<?xml version="1.0"?><rows/>', "it is XML; convert it to parquet"),
        (b"%PDF-1.7 ...", "a PDF document; extract its text"),
        (zipped(), "a zip archive.*; unpack it"),
        (pickle.dumps(ROWS), "a Python pickle, which could run code; save it as parquet"),
        ("text\nhé".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("text\nhé\n".encode("latin-1"), "not UTF-8 text .*; save it as UTF-8"),
        (b"a\0b" * 9, "binary of an unknown kind"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "a Git LFS pointer"),
        (SAMPLES["parquet"][:-40], "damaged after row 0.*copied whole"),
        (SAMPLES["arrow"][: len(SAMPLES["arrow"]) // 2], "damaged after row"),
        (
            gzip.compress(SAMPLES["csv"], mtime=0)[:-20],
            "the gzip data is cut short; write the file again",
        ),
        (zstandard.compress(SAMPLES["csv"])[:-20], "the zstd data is cut short"),
        (
            gzip.compress(gzip.compress(b"hello", mtime=0), mtime=0),
            "it is packed twice; pack it once",
        ),
        (SAMPLES["json"][:-30], "cut short .*, after row 19"),
        (b'{"a": [{"x": 1}], "b": [2]}', r"several lists \(a, b\)"),
        (b'{\n"a": 1\n}', "an object without a list of rows"),
        (b'[{"text": "a"}] trailing', "goes on after its end"),
        (b'[{"text": "a"} {"text"', "damaged after row 1"),
        (b'question,answer\na,"never closed\n', "breaks off at line 2"),
        (b"text,text\na,b\n", "two columns have one name|one name"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_dataset_is_explained(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DatasetUnreadable, match=f"cannot read data.csv as a dataset; .*{words}"):
        read(tmp_path, content, "data.csv")


def test_bad_bytes_late_in_a_file_are_told_with_their_line(tmp_path: Path) -> None:
    content = b'{"text": "long enough"}\n' * 5000 + b'{"text": "\xff"}\n'
    with pytest.raises(DatasetUnreadable, match="line 5001"):
        read(tmp_path, content)


def test_a_packed_file_may_not_grow_without_end(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreadable, match="unpacks to more than 10000000 bytes"):
        read(tmp_path, gzip.compress(b"a" * 10_000_001))


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 1000)
    with pytest.raises(DatasetUnreadable, match="line 1 has more than 1000 bytes"):
        read(tmp_path, b"a" * 2000)


def test_no_library_error_leaves_a_damaged_file(tmp_path: Path) -> None:
    originals = [*SAMPLES.values(), gzip.compress(SAMPLES["csv"]), b"one\ntwo\n"]

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        original=st.sampled_from(originals),
        changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8)), max_size=4),
        keep=st.floats(0, 1) | st.just(1.0),
    )
    def check(original: bytes, changes: list[tuple[float, bytes]], keep: float) -> None:
        content = bytearray(original)
        for place, new in changes:
            start = int(place * len(content))
            content[start : start + len(new)] = new
        try:
            _, rows = read(tmp_path, bytes(content[: int(keep * len(content))]))
        except DatasetUnreadable:
            return
        assert all(isinstance(row, Row | BadRow) for row in rows)

    check()
