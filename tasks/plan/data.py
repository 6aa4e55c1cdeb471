"""The dataset: whether its files are where the Workspace says, and how much there is. Pure."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tasks.contract.artifacts import Check
from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.errors import (
    AddressForbidden,
    InvalidWorkspace,
    KaitoflowError,
)
from tasks.contract.evaluation_data import EVALUATION_DATA_ANNOTATION
from tasks.contract.image_reference import parse_reference
from tasks.contract.retuning import asks_for_retuning
from tasks.contract.training_config import TrainingConfig
from tasks.contract.workspace import DataSource, Workspace
from tasks.plan.addresses import expect_address, file_path, is_file, is_web
from tasks.plan.check import not_seen, not_told
from tasks.plan.findings import DatasetSeen, Findings
from tasks.platform.base import World

_NAME, _EVALUATION = "dataset", "evaluation"
_MIB, _GIB = 2**20, 2**30
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
        return _without_urls(workspace, source, world)
    return _of_files(_NAME, source.urls, findings.dataset, world)


def evaluation(url: str, config: TrainingConfig | None, world: World, findings: Findings) -> Check:
    """Where the rows come from that adapters are measured on.

    Raises: DatasetUnreachable.
    """
    said = _of_files(_EVALUATION, [url], findings.evaluation, world)
    if isinstance(said, Check):
        return said
    told = f"adapters are measured on {said}; what they ask is trained on by none"
    if config and config.dataset.train_test_split is not None:
        return Check(
            name=_EVALUATION,
            result="warn",
            detail=f"{told}, and DatasetConfig.train_test_split has no effect beside it",
            fix=f"remove it, or annotation {EVALUATION_DATA_ANNOTATION}",
        )
    return Check(name=_EVALUATION, result="ok", detail=told)


def _of_files(
    name: str, urls: Sequence[str], found: DatasetSeen | KaitoflowError | None, world: World
) -> Check | str:
    """What is known of files at addresses.

    Raises: DatasetUnreachable.
    """
    for url in urls:
        expect_address(url, is_cluster=world.is_cluster)
    files = f"{len(urls)} file(s)"
    if isinstance(found, AddressForbidden) and world.is_cluster:
        fix = "its pod asks, where KAITOFLOW_ALLOW_LOCAL_ADDRESSES lets it"
        return not_seen(name, found, before=files, fix=fix)
    if isinstance(found, KaitoflowError):
        return not_told(name, found, before=files)
    if found and found.web_pages:
        return Check(
            name=name,
            result="warn",
            detail=f"{files}; {found.web_pages[0]} is a web page, not a file",
            fix="give the address of the file itself (the one behind Raw or Download)",
        )
    if cut := next((url for url in urls if is_web(url) and "#" in url), None):
        return Check(
            name=name,
            result="warn",
            detail=f"{files}; nothing after the # is asked for (#{cut.partition('#')[2]})",
            fix="write %23 where the # is part of the file's name",
        )
    told = f"{files}{_size(urls, found)}, verified before training"
    if world.is_cluster and any(urlsplit(url).password for url in urls):
        return Check(
            name=name,
            result="warn",
            detail=f"{told}; an address holds a password, which all see who see the Workspace",
            fix="give an address that is signed for a while, an image or a volume",
        )
    return told


def _without_urls(workspace: Workspace, source: DataSource, world: World) -> Check | str:
    if not world.is_cluster:
        kind = "image" if source.image else "volumeSource"
        raise InvalidWorkspace(
            f"tuning.input.{kind} was asked for",
            "this machine has no files of a cluster",
            "give tuning.input.urls (http, https or file:) on the local platform",
        )
    where = str(parse_reference(source.image)) if source.image else "a volume"
    told = f"{where}, verified before training"
    if source.image or not asks_for_retuning(workspace.metadata.annotations):
        return told
    return Check(
        name=_NAME,
        result="warn",
        detail=f"{told}; only a pod can see whether it has changed: each look that is due for a "
        "retuning starts one, with a node for it where none is there",
        fix="look seldom (kaitoflow.io/retune-schedule), or give the dataset as urls or an image, "
        "which are asked without a pod",
    )


def _size(urls: Sequence[str], found: DatasetSeen | None) -> str:
    sizes = _bytes(urls, found)
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
    text_bytes = _text_bytes(workspace, findings)
    return None if text_bytes is None else round(text_bytes / _BYTES_PER_TOKEN)


def dataset_gib(workspace: Workspace, findings: Findings) -> float | None:
    """The dataset's rows as text, guessed likewise; None where a size is not known."""
    text_bytes = _text_bytes(workspace, findings) if workspace.tuning else None
    return None if text_bytes is None else text_bytes / _GIB


def _text_bytes(workspace: Workspace, findings: Findings) -> float | None:
    assert workspace.tuning
    urls, found = workspace.tuning.input.urls, findings.dataset
    sizes = _bytes(urls, found if isinstance(found, DatasetSeen) else None)
    if not sizes or None in sizes:
        return None
    return sum(
        (size or 0) * (_PARQUET_SHRINKS if urlsplit(url).path.endswith("parquet") else 1)
        for url, size in zip(urls, sizes, strict=True)
    )


def _bytes(urls: Sequence[str], found: DatasetSeen | None) -> tuple[int | None, ...]:
    """The bytes of each file; None = not known."""
    if found:
        return found.bytes
    return tuple(
        file_path(url).stat().st_size if is_file(url) and file_path(url).is_file() else None
        for url in urls
    )


def with_absolute_files(workspace: Workspace, base: Path) -> Workspace:
    """The Workspace with its relative `file:` URLs, and folders, counted from a folder."""
    if not workspace.tuning:
        return workspace
    urls = [_absolute(url, base) for url in workspace.tuning.input.urls]
    source = workspace.tuning.input.model_copy(update={"urls": urls})
    tuning = workspace.tuning.model_copy(update={"input": source})
    annotations = dict(workspace.metadata.annotations)
    if (start := annotations.get(CONTINUE_ANNOTATION, "")).startswith("."):
        annotations[CONTINUE_ANNOTATION] = str((base / start).resolve())
    if (url := annotations.get(EVALUATION_DATA_ANNOTATION, "")) and is_file(url):
        annotations[EVALUATION_DATA_ANNOTATION] = _absolute(url, base)
    metadata = workspace.metadata.model_copy(update={"annotations": annotations})
    return workspace.model_copy(update={"tuning": tuning, "metadata": metadata})


def _absolute(url: str, base: Path) -> str:
    if not is_file(url) or str(file_path(url)).startswith("//"):
        return url
    return (base / file_path(url)).resolve().as_uri()
