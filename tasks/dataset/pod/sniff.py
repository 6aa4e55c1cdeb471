"""What a file is, told by its first bytes: names and content types are not believed.

Pure. `recognise` names a format that `formats` reads, or says what was found instead.
"""

import csv
import io
import re
from collections.abc import Collection

from tasks.contract.errors import DatasetUnreadable

HEAD_BYTES = 64 * 1024
SUPPORTED = "parquet, arrow, json, jsonl, csv or txt, plain or inside gzip or zstd"
DELIMITERS = ",;\t|"

_BINARY = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow-stream"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
# First bytes, what they are, what to do instead.
_FOREIGN = (
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive (or an Excel or PyTorch file)", "unpack it"),
    (rb"%PDF", "a PDF document", "extract its text"),
    (rb"\x80[\x02-\x05]", "a Python pickle, which could run code", "save it as parquet or jsonl"),
    (rb"BZh[1-9]1AY", "bzip2", "compress it with gzip or zstd"),
    (rb"\xfd7zXZ", "xz", "compress it with gzip or zstd"),
    (rb"7z\xbc\xaf", "a 7-zip archive", "unpack it"),
    (rb"Rar!", "a rar archive", "unpack it"),
    (rb"SQLite format 3", "an SQLite database", "export the table as csv"),
    (rb"Obj\x01", "Avro", "save it as parquet"),
    (rb"\x89HDF", "HDF5", "save it as parquet"),
    (rb"GGUF", "model weights (GGUF)", "give the dataset's address, not a model's"),
    (rb".{7}\x00\{\"", "model weights (safetensors)", "give the dataset's address"),
    (rb"\xff\xfe|\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (
        rb"version https://git-lfs\.github\.com/spec",
        "a Git LFS pointer, not the file itself",
        "use the address that downloads the file (…/resolve/main/…)",
    ),
)
_HTML = re.compile(
    rb"<(!doctype html|html|head|body|script|title|meta|link|style|div|span|p|a|h[1-6]|form|table"
    rb"|center|section|main|nav|header|img|br|ul)\b",
    re.IGNORECASE,
)
_HTML_COMMENT = re.compile(rb"(?:<!--.*?-->\s*)+", re.DOTALL)
_XML = re.compile(rb"<(\?xml|!doctype|[a-z][\w:.-]*[\s/>])", re.IGNORECASE)
_COLUMN_NAME = re.compile(r"[^\W_][\w .\-/]{0,39}")


def unreadable(name: str, found: str, fix: str) -> DatasetUnreadable:
    """The error for a file whose bytes are no dataset, in three parts."""
    return DatasetUnreadable(
        f"cannot read {name} as a dataset",
        f"{found}",
        f"{fix}",
    )


def recognise(name: str, head: bytes, *, columns: Collection[str]) -> str:
    """The format of a file that begins with `head` (at most HEAD_BYTES; all of a shorter file).

    One of parquet, arrow, arrow-stream, gzip, zstd, array (JSON), object (JSON or jsonl), csv, txt.
    columns: names that make a first line a csv header.
    Raises: DatasetUnreadable: empty, or something else.
    """
    if not head.strip():
        raise unreadable(name, "it is empty", "give a file with rows")
    for magic, form in _BINARY:
        if head.startswith(magic):
            return form
    _refuse_foreign(name, head)
    text = _text(name, head)
    first = text.lstrip()[:1]
    if first in ("[", "{"):
        return "array" if first == "[" else "object"
    return "csv" if csv_delimiter(text, columns) else "txt"


def csv_delimiter(text: str, columns: Collection[str]) -> str | None:
    """What parts the columns of a csv file that begins with `text`; None when it is no csv.

    Csv has a header: names of which one is known, or short names above rows of equal width.
    """
    known = {column.strip().lower() for column in columns}
    candidates = [
        (score, delimiter)
        for delimiter in DELIMITERS
        if (score := _csv_score(text, delimiter, known)) > 0
    ]
    return max(candidates, key=lambda found: found[0])[1] if candidates else None


def _csv_score(text: str, delimiter: str, known: Collection[str]) -> int:
    try:
        sample = io.StringIO(text, newline="")
        records = [record for record in csv.reader(sample, delimiter=delimiter) if record]
    except csv.Error:
        return 0
    header = [field.strip() for field in records[0]] if records else []
    if max(map(len, header), default=0) > 64:
        return 0
    # A familiar name decides, even beside an unnamed column: pandas writes its index so.
    familiar = sum(field.lower() in known for field in header)
    if familiar:
        return 100 * familiar + len(header)
    # The last record may be cut by the end of the sample.
    widths = {len(record) for record in records[1:-1] or records[1:]}
    alike = len(header) > 1 and len(records) > 2 and widths == {len(header)}
    return len(header) if alike and all(map(_looks_like_a_name, header)) else 0


def _looks_like_a_name(field: str) -> bool:
    return bool(_COLUMN_NAME.fullmatch(field)) and field.count(" ") < 3


def _refuse_foreign(name: str, head: bytes) -> None:
    for pattern, found, fix in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            raise unreadable(name, f"it is {found}", fix)
    if head[257:262] == b"ustar":
        raise unreadable(name, "it is a tar archive", "unpack it")
    start = _HTML_COMMENT.sub(b"", head.removeprefix(b"\xef\xbb\xbf").lstrip(), count=1)
    if _HTML.match(start):
        raise unreadable(
            name,
            "it is an HTML page, often a login or an error page",
            "use the address of the file itself, one that needs no login",
        )
    if _XML.match(start):
        raise unreadable(name, "it is XML", f"convert it to {SUPPORTED}")


def _text(name: str, head: bytes) -> str:
    if b"\0" in head:
        raise unreadable(
            name,
            f"it is binary of an unknown kind (begins {head[:8].hex(' ')})",
            f"use {SUPPORTED}",
        )
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) == HEAD_BYTES and error.start >= len(head) - 3:
            return head[: error.start].decode("utf-8-sig")  # the sample ends inside a character
        raise not_utf8(name, f"byte {error.start + 1}") from error


def not_utf8(name: str, where: str) -> DatasetUnreadable:
    """The error for text in another encoding."""
    return unreadable(name, f"it is not UTF-8 text ({where})", "save it as UTF-8")
