"""Base models as images: a layer is a file as it lies on disk, so that nothing is packed or copied.

Such an artifact is what `oras push` makes; its manifest says which model it is. Each file that has
arrived whole stays, on both ways, so that who was interrupted goes on with the next one.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from serving.weights.marker import Marker
from tasks.contract.errors import (
    ImageReferenceInvalid,
    ImageUnreadable,
    RegistryDenied,
    RegistryUnavailable,
    WeightsUnavailable,
)
from tasks.contract.image_annotations import BASE_COMMIT, BASE_MODEL, BASE_REVISION
from tasks.contract.image_reference import parse_push_reference, parse_reference
from tasks.contract.programs.serving import WeightsConfig, WeightsPushConfig, WeightsPushResult
from tasks.remote.manifest import (
    MANIFEST_TYPE,
    TITLE,
    Blob,
    descriptor,
    digest_of,
    encode,
    read_annotations,
    read_layers,
)
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository

_ARTIFACT_TYPE = "application/vnd.kaitoflow.model.v1"
_FILE_TYPE = "application/octet-stream"
_NO_CONFIG_TYPE, _NO_CONFIG = "application/vnd.oci.empty.v1+json", b"{}"
_PART = ".part"


def download(config: WeightsConfig, *, into: Path) -> str:
    """Have the image's files in a folder; the commit that they are of, "" = it does not say.

    Raises: WeightsUnavailable: there is no such image, or it holds another model. RegistryDenied,
    RegistryUnavailable, AddressForbidden, ImageUnreadable.
    """
    refused: RegistryDenied | ImageReferenceInvalid | None = None
    logins = (None, config.docker_config) if config.docker_config else (None,)
    for login in logins:
        try:
            with _opened(config, login) as repository:
                return _files(config, repository, into)
        except (RegistryDenied, ImageReferenceInvalid) as error:
            refused = error  # some registries say 404 where they mean 401
    assert refused
    if isinstance(refused, RegistryDenied):
        raise refused
    raise _unavailable(config, refused.found)


def _opened(config: WeightsConfig, login: Path | None) -> Repository:
    return Repository(
        parse_reference(config.image),
        "pull",
        docker_config=login,
        insecure=config.insecure,
        storage_hosts=config.storage_hosts,
        patience=Patience(config.patience_s),
    )


def _files(config: WeightsConfig, repository: Repository, into: Path) -> str:
    manifest = repository.read_manifest(parse_reference(config.image).target)
    notes = read_annotations(manifest, image=config.image)
    held = (notes.get(BASE_MODEL), notes.get(BASE_REVISION))
    if held != (config.model_id, config.revision):
        found = f"it holds {held[0]} at {held[1]}" if all(held) else "it says of no model"
        raise _unavailable(config, found)
    layers = read_layers(manifest, image=config.image)
    for layer in layers:
        _have_file(layer, repository, into / _plain_name(layer, config.image))
    kept = {layer.file_name for layer in layers}
    for other in into.iterdir():
        if other.name not in kept:  # of an image that the name had before
            other.unlink()
    return notes.get(BASE_COMMIT, "")


def _have_file(layer: Blob, repository: Repository, path: Path) -> None:
    if path.is_file() and path.stat().st_size == layer.size_bytes and _digest(path) == layer.digest:
        return
    part = path.with_name(f"{path.name}{_PART}")
    repository.have_blob(layer.digest, layer.size_bytes, part).replace(path)


def _plain_name(layer: Blob, image: str) -> str:
    name = layer.file_name
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ImageUnreadable(
            f"the image {image} was read as a base model",
            f"a layer of it is called {name!r:.100}, which is no file's name",
            "push the model again (kaitoflow models push)",
        )
    return name


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _unavailable(config: WeightsConfig, found: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"the weights of {config.model_id} at {config.revision} were asked for",
        f"they come from the image {config.image}, and {found}",
        "push them there from a machine that has a way to the hub (kaitoflow models push"
        f" {config.model_id} REGISTRY)",
    )


def upload(config: WeightsPushConfig, marker: Marker) -> WeightsPushResult:
    """Have a registry hold a whole folder of weights; what it has already is not sent again.

    Raises: RegistryDenied, RegistryUnavailable, ImageReferenceInvalid.
    """
    reference = parse_push_reference(config.image)
    manifest = encode(_manifest(marker))
    sent_bytes = 0
    with Repository(
        reference,
        "pull,push",
        docker_config=config.docker_config,
        insecure=config.insecure,
        storage_hosts=config.storage_hosts,
        patience=Patience(config.patience_s),
    ) as repository:
        for name, size_bytes in sorted(marker.files.items()):
            path, digest = config.weights_dir / name, f"sha256:{marker.digests[name]}"
            if repository.upload(path, digest, phase=f"push {name}"):
                sent_bytes += size_bytes
        with tempfile.NamedTemporaryFile() as no_config:
            no_config.write(_NO_CONFIG)
            no_config.flush()
            repository.upload(Path(no_config.name), digest_of(_NO_CONFIG), phase="push config")
        repository.put_manifest(manifest)
        arrived = digest_of(repository.read_manifest(reference.tag))
    if arrived != digest_of(manifest):
        raise RegistryUnavailable(
            f"{reference} was pushed as {digest_of(manifest)}",
            f"the registry serves {arrived}",
            "see who else pushes to this tag, then push again",
        )
    return WeightsPushResult(
        image=str(reference),
        digest=arrived,
        bytes=sum(marker.files.values()),
        uploaded_bytes=sent_bytes,
    )


def _manifest(marker: Marker) -> dict[str, Any]:
    """One content, one manifest: the same files have one digest, whoever pushes them."""
    layers = [
        descriptor(_FILE_TYPE, f"sha256:{marker.digests[name]}", size_bytes)
        | {"annotations": {TITLE: name}}
        for name, size_bytes in sorted(marker.files.items())
    ]
    told = {BASE_MODEL: marker.model_id, BASE_REVISION: marker.revision, BASE_COMMIT: marker.commit}
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": _ARTIFACT_TYPE,
        "config": descriptor(_NO_CONFIG_TYPE, digest_of(_NO_CONFIG), len(_NO_CONFIG)),
        "layers": layers,
        "annotations": {name: text for name, text in told.items() if text},
    }
