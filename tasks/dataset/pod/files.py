"""Which files make the dataset: fetched from its URLs, or found in the mounted folder."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.contract.errors import DatasetUnreachable
from tasks.contract.programs.dataset import DatasetConfig
from tasks.dataset.pod import fetch
from tasks.dataset.pod.progress import Progress
from tasks.remote import guard
from tasks.remote.file_server import shown

# What lies beside data in published datasets, by name; everything else must be readable.
SIDE_FILE = re.compile(
    r"(readme|license|licence|notice|changelog|citation|contributing)([._-].*)?"
    r"|(dataset_infos?|dataset_dict|state|croissant|metadata)\.json|_success|makefile"
    r"|.*\.(md|rst|py|ipynb|sh|ya?ml|toml|cfg|ini|lock|md5|sha256|sha512|crc"
    r"|png|jpe?g|gif|svg|part|note|tmp)",
    re.IGNORECASE,
)
PATIENCE = fetch.Patience()
SIDE_FOLDER = re.compile(r"\..*|lost\+found|__pycache__|__macosx", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of the dataset.

    name: what messages and the report call it; unique within the dataset.
    url: without secrets; "" for a file of a folder.
    fetched: a copy of ours, not the user's own file.
    """

    path: Path
    name: str
    url: str = ""
    bytes: int
    sha256: str
    fetched: bool = False


def gather_files(
    config: DatasetConfig,
    *,
    patience: fetch.Patience = PATIENCE,
    resolve: guard.Resolver = guard.system_addresses,
) -> list[DataFile]:
    """Every file of the dataset on the local disk, in the order in which it is read.

    Raises: DatasetUnreachable, DownloadFailed, DiskFull.
    """
    if config.source_dir is not None:
        return _folder_files(config.source_dir)
    if not config.urls:
        raise DatasetUnreachable(
            "cannot prepare the dataset",
            "neither an address nor a folder was given",
            "set tuning.input.urls, tuning.input.image or tuning.input.volumeSource",
        )
    progress = Progress()
    files: list[DataFile] = []
    with fetch.open_client(
        allow_local_addresses=config.allow_local_addresses, patience=patience, resolve=resolve
    ) as client:
        for index, url in enumerate(config.urls):
            left = config.max_bytes - sum(file.bytes for file in files)
            if urlsplit(url).scheme.lower() == "file":
                files.append(_own_file(config, index, left))
                continue
            path = _raw_dir(config) / _stored_name(index, url)
            got = fetch.download(
                client, url, path=path, max_bytes=left, patience=patience, progress=progress
            )
            files.append(
                DataFile(
                    path=got.path,
                    name=_name(config.urls, index),
                    url=shown(url),
                    bytes=got.bytes,
                    sha256=got.sha256,
                    fetched=True,
                )
            )
    return files


def mark_stale(files: list[DataFile]) -> None:
    """Have fetched files compared with the server's next time: this time they were of no use."""
    for file in files:
        if file.fetched:
            fetch.mark_stale(file.path)


def _raw_dir(config: DatasetConfig) -> Path:
    folder = config.data_dir / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _stored_name(index: int, url: str) -> str:
    # The number keeps equal names apart, and their parts and notes too.
    return f"{index + 1:03d}-{_base_name(url)}"


def _base_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", name)[-100:] or "dataset"


def _name(urls: tuple[str, ...], index: int) -> str:
    names = [_base_name(url) for url in urls]
    return names[index] if names.count(names[index]) == 1 else _stored_name(index, urls[index])


def _own_file(config: DatasetConfig, index: int, max_bytes: int) -> DataFile:
    url = config.urls[index]
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    # A file's name may have a # or ? in it; of an address they would cut it off.
    whole = Path(unquote(url.partition(":")[2].removeprefix("//")))
    if not path.is_file() and whole.is_absolute() and whole.is_file():
        path = whole
    if not config.allow_files:
        found, fix = "file: addresses are not allowed here", "use https, or mount it as a volume"
    elif parts.netloc not in ("", "localhost") or not path.is_absolute():
        found, fix = "it is no absolute path on this machine", "write file:///folder/name"
    elif not path.is_file():
        found, fix = "there is no such file", "check the path"
    elif path.stat().st_size > max_bytes:
        found, fix = f"the dataset is larger than {config.max_bytes} bytes", "use fewer files"
    else:
        return _data_file(path, _name(config.urls, index), url=path.as_uri())
    raise DatasetUnreachable(
        f"cannot read {shown(url)}",
        f"{found}",
        f"{fix}",
    )


def _folder_files(folder: Path) -> list[DataFile]:
    if not folder.is_dir():
        raise DatasetUnreachable(
            f"cannot read the dataset's folder {folder}",
            "it is not there",
            "check the volume or the image of tuning.input",
        )
    files = [_data_file(path, str(path.relative_to(folder))) for path in sorted(_walk(folder))]
    if not files:
        raise DatasetUnreachable(
            f"cannot read the dataset's folder {folder}",
            "it holds no data file",
            "put parquet, arrow, json, jsonl, csv or txt files into it",
        )
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not SIDE_FOLDER.fullmatch(name)]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and not SIDE_FILE.fullmatch(name) and path.is_file():
                yield path


def _data_file(path: Path, name: str, *, url: str = "") -> DataFile:
    try:
        digest = fetch.file_sha256(path)
    except PermissionError as error:
        raise DatasetUnreachable(
            f"cannot read {path}",
            f"this program (user {os.getuid()}) may not",
            "make the file readable for everyone",
        ) from error
    return DataFile(path=path, name=name, url=url, bytes=path.stat().st_size, sha256=digest)
