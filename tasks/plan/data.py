"""The dataset: whether its files are where the Workspace says, and how much there is. Pure."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.contract.artifacts import Check
from tasks.contract.errors import (
    AddressForbidden,
    DatasetUnreachable,
    InvalidWorkspace,
    KaitoflowError,
)
from tasks.contract.image_reference import parse_reference
from tasks.contract.workspace import DataSource, Workspace
from tasks.plan.check import not_told
from tasks.plan.findings import DatasetSeen, Findings
from tasks.platform.base import World

_NAME = "dataset"
_MIB = 2**20
# A token of English text is about four bytes; columnar files are about half the size of their text.
_BYTES_PER_TOKEN = 4.0
_PARQUET_SHRINKS = 2.0


def dataset(workspace: Workspace, world: World, findings: Findings) -> Check | str:
    """Where the rows come from, and how much the files hold.

    Raises: InvalidWorkspace, DatasetUnreachable, ImageReferenceInvalid.
    """
    assert workspace.tuning
    source = workspace.tuning.input
    if not source.urls:
        return _without_urls(source, world)
    _expect_files(source, world)
    files = f"{len(source.urls)} file(s)"
    found = findings.dataset
    if isinstance(found, AddressForbidden) and world.is_cluster:
        return Check(
            name=_NAME,
            result="warn",
            detail=f"{files}; {found.asked}, and was not asked from here",
            fix="its pod asks, where KAITOFLOW_ALLOW_LOCAL_ADDRESSES lets it",
        )
    if isinstance(found, KaitoflowError):
        return not_told(_NAME, found, before=files)
    if found and found.web_pages:
        return Check(
            name=_NAME,
            result="warn",
            detail=f"{files}; {found.web_pages[0]} is a web page, not a file",
            fix="give the address of the file itself (the one behind Raw or Download)",
        )
    return f"{files}{_size(source, found)}, verified before training"


def _without_urls(source: DataSource, world: World) -> str:
    if not world.is_cluster:
        kind = "image" if source.image else "volumeSource"
        raise InvalidWorkspace(
            f"tuning.input.{kind} was asked for",
            "this machine has no files of a cluster",
            "give tuning.input.urls (http, https or file:) on the local platform",
        )
    where = str(parse_reference(source.image)) if source.image else "a volume"
    return f"{where}, verified before training"


def _expect_files(source: DataSource, world: World) -> None:
    """Nothing, if each address can be one of a file there."""
    here = [url for url in source.urls if not url.startswith(("http://", "https://"))]
    if here and world.is_cluster:
        raise DatasetUnreachable(
            f"{here[0]} was asked for",
            "a pod cannot read files of your machine",
            "give an http(s) URL, or an image or a volumeSource",
        )
    missing = [url for url in here if _is_file(url) and not _path(url).is_file()]
    if missing:
        raise DatasetUnreachable(
            f"{missing[0]} was asked for",
            "there is no such file",
            "correct the path (a relative one counts from the Workspace's file)",
        )


def _size(source: DataSource, found: DatasetSeen | None) -> str:
    sizes = _bytes(source, found)
    known = [size for size in sizes if size is not None]
    if not known:
        return ""
    least = "" if len(known) == len(sizes) else "at least "
    return f", {least}{_amount(sum(known))}"


def _amount(size_bytes: int) -> str:
    if size_bytes < _MIB:
        return f"{size_bytes / 2**10:,.0f} KiB"
    return f"{size_bytes / _MIB:,.1f} MiB"


def expected_tokens(workspace: Workspace, findings: Findings) -> int | None:
    """Tokens of the dataset, guessed from file sizes; None when a size is not known."""
    assert workspace.tuning
    source, found = workspace.tuning.input, findings.dataset
    sizes = _bytes(source, found if isinstance(found, DatasetSeen) else None)
    if not sizes or None in sizes:
        return None
    text_bytes = sum(
        (size or 0) * (_PARQUET_SHRINKS if urlsplit(url).path.endswith("parquet") else 1)
        for url, size in zip(source.urls, sizes, strict=True)
    )
    return round(text_bytes / _BYTES_PER_TOKEN)


def _bytes(source: DataSource, found: DatasetSeen | None) -> tuple[int | None, ...]:
    """The bytes of each file; None = not known."""
    if found:
        return found.bytes
    return tuple(
        _path(url).stat().st_size if _is_file(url) and _path(url).is_file() else None
        for url in source.urls
    )


def _is_file(url: str) -> bool:
    return url.startswith("file:")


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def with_absolute_files(workspace: Workspace, base: Path) -> Workspace:
    """The Workspace with its relative `file:` URLs counted from a folder."""
    if not workspace.tuning:
        return workspace
    urls = [_absolute(url, base) for url in workspace.tuning.input.urls]
    source = workspace.tuning.input.model_copy(update={"urls": urls})
    tuning = workspace.tuning.model_copy(update={"input": source})
    return workspace.model_copy(update={"tuning": tuning})


def _absolute(url: str, base: Path) -> str:
    return (base / _path(url)).resolve().as_uri() if _is_file(url) else url
