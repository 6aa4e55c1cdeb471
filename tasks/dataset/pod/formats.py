"""Rows out of a file of any supported format, streamed; the bytes decide, not the name.

    parquet, arrow (file and stream)    batch by batch; nothing is ever unpickled
    json                                an array of objects, or an object with one list of them
    jsonl                               one object a line; a line that is no object is a bad row
    csv                                 with a header; delimiter sniffed, line breaks inside quotes
    txt                                 one row a line, as `{"text": line}`; blank lines are skipped

Each of them may be inside gzip or zstd, and is then unpacked beside the result first. Whatever is
wrong with a file as a whole is DatasetUnreadable, whatever library noticed it.
"""

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa

from tasks.dataset.pod.fetch import disk_full_explained
from tasks.dataset.pod.jsonstream import JsonCursor, Truncated
from tasks.dataset.pod.rows import BadRow, Row, Rows
from tasks.dataset.pod.shapes import KNOWN_COLUMNS
from tasks.dataset.pod.sniff import DELIMITERS, HEAD_BYTES, csv_delimiter, not_utf8, recognise
from tasks.dataset.pod.sniff import unreadable as unreadable_file
from tasks.dataset.pod.values import kind_of

BATCH_ROWS = 1000
# No row is that long; a file without line breaks must not fill the memory.
MAX_LINE_BYTES = 64 * 2**20
UNPACK_BYTES = 2**20
BUFFER_BYTES = 2**20
AGAIN = "write the file again and check that it was copied whole"


@dataclass(frozen=True)
class Source:
    """A file's format (`jsonl`, or `gzip jsonl` when packed) and its rows, to be read once.

    unread: columns that the rows come without; known once the rows are read.
    """

    format: str
    rows: Rows
    unread: Sequence[str]


@contextmanager
def open_rows(
    path: Path, name: str, *, columns: Collection[str], unpack_to: Path, max_bytes: int
) -> Iterator[Source]:
    """The rows of a file.

    name: what messages call it. columns: names that make a first line a csv header.
    unpack_to: where a packed file's content lies meanwhile, at most max_bytes of it.
    Raises: DatasetUnreadable: here or while the rows are read. DiskFull.
    """
    try:
        packing = ""
        form = recognise(name, _head(path), columns=columns)
        if form in ("gzip", "zstd"):
            packing, packed, path = f"{form} ", path, unpack_to
            _unpack(packed, name, form=form, target=path, max_bytes=max_bytes)
            form = recognise(name, _head(path), columns=columns)
        if form in ("gzip", "zstd"):
            raise unreadable_file(name, "it is packed twice", "pack it once")
        form = _refined(form, path, name, columns)
        unread: list[str] = []
        is_parquet = form == "parquet"
        rows = _parquet(path, columns, unread) if is_parquet else READERS[form](path, name)
        yield Source(f"{packing}{form}", _explained(name, rows), unread)
    finally:
        unpack_to.unlink(missing_ok=True)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _unpack(path: Path, name: str, *, form: str, target: Path, max_bytes: int) -> None:
    size = 0
    with (
        disk_full_explained(target),
        pa.input_stream(str(path), compression=form) as packed,
        target.open("wb") as file,
    ):
        while piece := _unpacked(packed, name, form):
            size += file.write(piece)
            if size > max_bytes:
                raise unreadable_file(
                    name, f"it unpacks to more than {max_bytes} bytes", "use smaller files"
                )


def _unpacked(packed: Any, name: str, form: str) -> bytes:
    try:
        return bytes(packed.read(UNPACK_BYTES))
    except (OSError, pa.ArrowException) as error:
        cut = "truncated" in str(error).lower()
        found = f"the {form} data is {'cut short' if cut else f'damaged ({error})'}"
        raise unreadable_file(name, found, AGAIN) from error


def _refined(form: str, path: Path, name: str, columns: Collection[str]) -> str:
    if form == "object":
        return "jsonl" if _has_lines(path, columns) else "json"
    if form == "txt" and name.lower().removesuffix(".gz").removesuffix(".zst").endswith(
        (".csv", ".tsv")
    ):
        return "csv"
    promised = name.lower().removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    if form == "txt" and promised in ("json", "jsonl", "ndjson", "parquet", "arrow"):
        # Servers answer with a sentence where the file is gone; it would be trained on.
        raise unreadable_file(
            name,
            f"it is plain text, though its name promises {promised}",
            "open the address to see what the server says, or name the file .txt",
        )
    return "json" if form == "array" else form


def _has_lines(path: Path, columns: Collection[str]) -> bool:
    """Whether a file that begins with `{` is jsonl; one line alone is, if it looks like a row."""
    with path.open("rb") as file:
        lines = (line for line in _limited_lines(file) if line.strip())
        first, second = next(lines, b""), next(lines, b"")
    if second:
        return second.startswith(b"{")
    try:
        only = json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    known = {column.lower() for column in columns}
    looks_like_a_row = any(str(key).strip().lower() in known for key in only)
    return looks_like_a_row or not any(isinstance(value, list) for value in only.values())


def _limited_lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        yield line


def _explained(name: str, rows: Rows) -> Rows:
    """The same rows; what a library says of a broken file becomes DatasetUnreadable."""
    last = 0
    try:
        for row in rows:
            last = row.number
            yield row
    except Truncated as error:
        raise unreadable_file(
            name, f"it is cut short ({error}, after row {last})", AGAIN
        ) from error
    except UnicodeDecodeError as error:
        raise not_utf8(name, f"after row {last}") from error
    except pa.ArrowMemoryError as error:
        found = f"a batch after row {last} wants more memory than there is"
        raise unreadable_file(name, found, "write it with smaller row groups") from error
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        RecursionError,
        KeyError,
        csv.Error,
    ) as error:
        found = f"it is damaged after row {last} ({_first_line(error)})"
        raise unreadable_file(name, found, AGAIN) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _parquet(path: Path, columns: Collection[str], unread: list[str]) -> Rows:
    """The rows, of the columns that are of use only: what nobody asks for may be unreadable.

    unread: gets the names of the other columns.
    """
    import pyarrow.parquet as pq

    # A buffer keeps whole row groups out of memory.
    with pq.ParquetFile(path, buffer_size=BUFFER_BYTES) as file:
        wanted = {column.strip().lower() for column in columns}
        used = [name for name in file.schema_arrow.names if name.strip().lower() in wanted]
        # Without any, all are read, and the first row says what was found.
        unread += [name for name in file.schema_arrow.names if used and name not in used]
        yield from _from_batches(file.iter_batches(batch_size=BATCH_ROWS, columns=used or None))


def _arrow_file(path: Path, _name: str) -> Rows:
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        yield from _from_batches(batches)


def _arrow_stream(path: Path, _name: str) -> Rows:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield from _from_batches(reader)


def _from_batches(batches: Iterable[Any]) -> Rows:
    number = 0
    for batch in batches:
        # Offsets that point outside of a damaged file's buffers must not be followed.
        batch.validate(full=True)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for values in batch.slice(start, BATCH_ROWS).to_pylist():
                number += 1
                yield Row(number, values)


def _json(path: Path, name: str) -> Rows:
    with path.open(encoding="utf-8-sig") as text:
        cursor = JsonCursor(text)
        items = cursor.items() if cursor.peek() == "[" else _only_list(cursor, name)
        for number, item in enumerate(items, 1):
            yield _object_row(number, item)
        if cursor.peek():
            raise unreadable_file(
                name,
                "the JSON goes on after its end",
                "put the rows into one array, or each on a line of its own (jsonl)",
            )


def _only_list(cursor: JsonCursor, name: str) -> Iterator[object]:
    """The items of the one list that an object holds; its other values are passed over."""
    fix = "give an array of rows, an object with one list of rows, or one row a line (jsonl)"
    lists: list[str] = []
    cursor.take("{")
    while cursor.peek() != "}":
        key = cursor.value()
        cursor.take(":")
        if cursor.peek() != "[":
            cursor.value()
        else:
            lists.append(str(key)[:40])
            if len(lists) > 1:
                found = f"it is an object with several lists ({', '.join(lists)})"
                raise unreadable_file(name, found, fix)
            yield from cursor.items()
        if cursor.peek() != "}":
            cursor.take(",}")
    cursor.take("}")
    if not lists:
        raise unreadable_file(name, "it is an object without a list of rows", fix)


def _jsonl(path: Path, name: str) -> Rows:
    for number, line in _text_lines(path, name):
        try:
            yield _object_row(number, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield BadRow(number, f"the line is not JSON ({_why_no_json(error)})")


def _why_no_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    # Python reads whole numbers of some thousands of digits and no longer ones.
    return "a number of too many digits" if isinstance(error, ValueError) else "nested too deeply"


def _object_row(number: int, value: object) -> Row | BadRow:
    if isinstance(value, Mapping):
        return Row(number, value)
    return BadRow(number, f"it is {kind_of(value)}, not an object with named columns")


def _txt(path: Path, name: str) -> Rows:
    for number, line in _text_lines(path, name):
        yield Row(number, {"text": line})


def _text_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each with its number."""
    with path.open("rb") as file:
        for number, line in enumerate(_limited_lines(file), 1):
            if len(line) == MAX_LINE_BYTES:
                found = f"line {number} has more than {MAX_LINE_BYTES} bytes"
                raise unreadable_file(name, found, "write one row a line")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(name, f"line {number}") from error
            if text.strip():
                yield number, text.rstrip("\r\n")


def _csv(path: Path, name: str) -> Rows:
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as text:
        delimiter = _delimiter(text)
        records = csv.reader(_csv_lines(text, name), delimiter=delimiter, strict=True)
        try:
            yield from _csv_rows(records, name)
        except csv.Error as error:
            found = f"the csv breaks off at line {records.line_num} ({error})"
            fix = 'close every quote, and write a quote inside a field as ""'
            raise unreadable_file(name, found, fix) from error


def _delimiter(text: TextIO) -> str:
    sample = text.read(HEAD_BYTES)
    text.seek(0)
    header = sample.partition("\n")[0]
    return csv_delimiter(sample, KNOWN_COLUMNS) or max(DELIMITERS, key=header.count)


def _csv_lines(text: TextIO, name: str) -> Iterator[str]:
    while line := text.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise unreadable_file(name, "a line is too long to be csv", "check the file")
        yield line


def _csv_rows(records: Iterator[list[str]], name: str) -> Rows:
    header = [field.strip() for field in next(records, [])]
    while header and not header[-1]:
        header.pop()
    if len(set(header)) != len(header):
        found = f"two columns have one name ({', '.join(header[:12])})"
        raise unreadable_file(name, found, "rename one")
    filled = (record for record in records if record)
    for number, record in enumerate(filled, 1):
        # Spreadsheets end each line with the separators of columns that were once in use.
        while len(record) > len(header) and not record[-1].strip():
            record.pop()
        if len(record) != len(header):
            yield BadRow(number, f"it has {len(record)} fields, the header has {len(header)}")
        else:
            yield Row(number, dict(zip(header, record, strict=True)))


READERS: dict[str, Callable[[Path, str], Rows]] = {
    "arrow": _arrow_file,
    "arrow-stream": _arrow_stream,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "txt": _txt,
}
