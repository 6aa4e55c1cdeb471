"""What the dataset programs are told, and what they answer."""

from dataclasses import dataclass
from pathlib import Path

MAX_DATASET_BYTES = 50 * 2**30


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
    chat_template: used instead of the model's own: Jinja text, or a file's path.
    max_length: tokens after which a row is cut when training.
    bad_rows_tolerance: share of rows, 0 to 1, that may be left out instead of stopping the run.
    allow_local_addresses: loopback and private addresses may be asked.
    """

    urls: tuple[str, ...] = ()
    source_dir: Path | None = None
    data_dir: Path
    weights_dir: Path
    chat_template: str | None = None
    columns: DatasetColumns = DatasetColumns()
    max_length: int = 1024
    max_bytes: int = MAX_DATASET_BYTES
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
    """A column, or `messages[].KEY`, that nothing is learned from; rows: those that fill it.

    remedy: how it would be learned, where it can be.
    """

    name: str
    rows: int
    remedy: str = ""


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
    texts: that the rows are trained on; more than rows where a chat template cannot teach all
        answers of a conversation in one. Pods of an older version tell 0.
    answer_tokens: that are learned in an epoch, about: by the answers' share of the characters.
        Pods of an older version tell 0.
    left_out_rows: that say of themselves that they are not to be learned, not among `rows`.
    silent_rows: of which nothing is learned, as no answer begins within max_length.
    cut_answer_rows: of which an answer is cut off by max_length.
    bare_answer_rows: with an answer that has no letter and no digit.
    advised_max_length: that would leave few rows silent; None = no other is of use.
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
    texts: int = 0
    answer_tokens: int = 0
    left_out_rows: int = 0
    silent_rows: int = 0
    cut_answer_rows: int = 0
    bare_answer_rows: int = 0
    advised_max_length: int | None = None
