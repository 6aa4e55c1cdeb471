"""Checkpoints in a registry, beside the image to come: a node that goes takes none of them along.

One is an artifact whose layers are its files, each as it is; its tag moves to a newer one once all
of that has arrived, so that it always names a whole one. What is fetched is judged like any other
checkpoint, by its seal (`checkpoints.py`).
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from tasks.contract.errors import ImageUnreadable, KaitoflowError
from tasks.contract.image_reference import parse_push_reference
from tasks.contract.programs.tuning import CheckpointsAway
from tasks.remote.manifest import (
    MANIFEST_TYPE,
    TITLE,
    Blob,
    descriptor,
    digest_of,
    encode,
    read_layers,
)
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository

log = logging.getLogger(__name__)

ARTIFACT_TYPE = "application/vnd.kaitoflow.checkpoint"
_EMPTY_TYPE, _EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
_FILE_TYPE = "application/octet-stream"
# A registry that is away holds up training for no longer than this at each checkpoint; to begin
# from nothing what it has would cost more.
_SEND_PATIENCE_S, _FETCH_PATIENCE_S = 20.0, 300.0
_NAME = re.compile(r"checkpoint-[0-9]+")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NAME_NOTE = "io.kaitoflow.checkpoint"


def send(checkpoint: Path, away: CheckpointsAway) -> str:
    """Have the registry keep this checkpoint in place of the one before; why it does not, or "".

    Training goes on either way: what is here is whole.
    """
    try:
        with _open(away, "pull,push", patience_s=_SEND_PATIENCE_S) as repository:
            _send(checkpoint, repository)
    except KaitoflowError as error:
        log.warning("checkpoint not sent path=%s: %s", checkpoint, error)
        return f"{checkpoint.name} was not kept away from this node: {error}"
    log.info("checkpoint sent path=%s reference=%s", checkpoint.name, away.reference)
    return ""


def _send(checkpoint: Path, repository: Repository) -> None:
    layers = []
    for file in sorted(checkpoint.iterdir()):
        with file.open("rb") as opened:
            digest = f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
        repository.upload(file, digest, phase="checkpoint")
        layers.append(
            descriptor(_FILE_TYPE, digest, file.stat().st_size)
            | {"annotations": {TITLE: file.name}}
        )
    with tempfile.NamedTemporaryFile() as empty:
        empty.write(_EMPTY)
        empty.flush()
        repository.upload(Path(empty.name), digest_of(_EMPTY), phase="checkpoint")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": descriptor(_EMPTY_TYPE, digest_of(_EMPTY), len(_EMPTY)),
        "layers": layers,
        "annotations": {_NAME_NOTE: checkpoint.name},
    }
    repository.put_manifest(encode(manifest))


def fetch(folder: Path, away: CheckpointsAway) -> list[str]:
    """Have what the registry keeps in the folder, if that has none; what is to be told of it."""
    if any(folder.glob("checkpoint-*")):
        return []
    try:
        with _open(away, "pull", patience_s=_FETCH_PATIENCE_S) as repository:
            name = _fetch(folder, repository, away.reference)
    except KaitoflowError as error:
        log.warning("checkpoint not fetched reference=%s: %s", away.reference, error)
        return [f"whether an earlier pod has left a checkpoint could not be seen: {error}"]
    return [f"{name} came from {away.reference}"] if name else []


def _fetch(folder: Path, repository: Repository, reference: str) -> str:
    """The name of the checkpoint; "" = there is none."""
    digest = repository.manifest_digest()
    if digest is None:
        return ""
    manifest = repository.read_manifest(digest)
    name, files = _read(manifest, reference)
    folder.mkdir(parents=True, exist_ok=True)
    incoming = folder / f".{name}.incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    for file in files:
        repository.have_blob(file.digest, file.size_bytes, incoming / file.file_name)
    incoming.replace(folder / name)
    return name


def _read(manifest: bytes, reference: str) -> tuple[str, tuple[Blob, ...]]:
    """Its name and its files, which a stranger could have written."""
    document = json.loads(manifest)
    name = (document.get("annotations") or {}).get(_NAME_NOTE, "")
    files = read_layers(manifest, image=reference)
    names = [file.file_name for file in files]
    are_plain = all(_FILE_NAME.fullmatch(each) for each in names) and len({*names}) == len(names)
    if document.get("artifactType") != ARTIFACT_TYPE or not _NAME.fullmatch(name) or not are_plain:
        raise ImageUnreadable(
            f"{reference} was to hold a checkpoint",
            "it is something else",
            "remove the tag, or push the adapter to another one",
        )
    return name, files


def _open(
    away: CheckpointsAway, access: Literal["pull", "pull,push"], *, patience_s: float
) -> Repository:
    return Repository(
        parse_push_reference(away.reference),
        access,
        docker_config=away.docker_config,
        insecure=away.insecure,
        storage_hosts=away.storage_hosts,
        patience=Patience(patience_s),
    )
