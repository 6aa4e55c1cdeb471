"""What the dataset programs are told, and what they answer."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetColumns:
    """Which columns hold what, from DatasetConfig; None = found by looking at the rows."""

    messages: str | None = None
    context: str | None = None
    response: str | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One dataset to fetch, verify and report on.

    urls: http(s), and `file:` where allow_files; all of them are used, in order.
    source_dir: a folder (a mounted volume, an unpacked image) used instead of urls.
    data_dir: gets `train.jsonl` (normalised rows), `report.json` (written last) and the raw files.
    weights_dir: the base model's folder; its tokenizer and chat template count the tokens.
    max_length: tokens after which a row is cut when training.
    bad_rows_tolerance: share of rows, 0 to 1, that may be left out instead of stopping the run.
    allow_local_addresses: loopback and private addresses may be asked.
    """

    urls: tuple[str, ...] = ()
    source_dir: Path | None = None
    data_dir: Path
    weights_dir: Path
    columns: DatasetColumns = DatasetColumns()
    max_length: int = 1024
    max_bytes: int = 50 * 2**30
    bad_rows_tolerance: float = 0.0
    allow_local_addresses: bool = False
    allow_files: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenSpread:
    """Tokens of all rows, and how they are spread over the rows."""

    total: int
    min: int
    median: float
    p95: int
    max: int


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be trained on, by its number in its file, and why."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class BadRows:
    """Rows that were left out: how many, and the first of them."""

    total: int
    listed: tuple[BadRow, ...]


@dataclass(frozen=True, kw_only=True)
class UnusedColumn:
    """A column, or `messages[].KEY`, that nothing is learned from; rows: those that fill it."""

    name: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class DatasetFile:
    """One file of a dataset; url: without what it may carry of secrets, None = from a folder."""

    name: str
    url: str | None
    bytes: int
    sha256: str
    format: str


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """A dataset that is ready to train on; `data_dir/report.json` says it too.

    digest: of the bytes of all files. train_sha256: of the normalised rows.
    unused_columns: told by pods since they count them; those of an older version tell none.
    """

    digest: str
    rows: int
    tokens: TokenSpread
    truncated_rows: int
    duplicate_rows: int
    max_length: int
    bad_rows: BadRows
    files: tuple[DatasetFile, ...]
    train_sha256: str
    unused_columns: tuple[UnusedColumn, ...] = ()
