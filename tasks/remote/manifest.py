"""The OCI documents of an image as others write them, read with distrust. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.contract.errors import ImageUnreadable
from tasks.contract.image_reference import is_digest

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"

TITLE = "org.opencontainers.image.title"

_ARCHIVE_TYPES = {"", "application/x-tar", "application/gzip", "application/zstd"}
ENTRIES_MAX = 512  # builders stop at 127 layers
_NOWHERE = "unknown/unknown"  # the platform of attestations, which builders put beside images


def digest_of(content: bytes) -> str:
    """The content's OCI digest, `sha256:HEX`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blob_path(digest: str) -> Path:
    """Where a blob lies in the folder of an image layout."""
    return Path("blobs", "sha256", digest.removeprefix("sha256:"))


def descriptor(media_type: str, digest: str, size_bytes: int) -> dict[str, Any]:
    """How OCI documents point at a blob."""
    return {"mediaType": media_type, "digest": digest, "size": size_bytes}


def encode(document: Mapping[str, Any]) -> bytes:
    """JSON with one spelling for one content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Blob:
    """A layer, or a manifest, as another document names it.

    file_name: of a layer that is one plain file, as `oras push` makes them; "" = an archive.
    """

    digest: str
    size_bytes: int
    file_name: str = ""


def pick_manifest(content: bytes, *, image: str) -> Blob | None:
    """The manifest to use of an index: linux/amd64, or the only one.

    None = `content` is no index but a manifest itself.
    """
    document = _parse(content, image)
    if "manifests" not in document:
        return None
    entries = [one for one in _objects(document, "manifests", image) if _platform(one) != _NOWHERE]
    fitting = [one for one in entries if _platform(one) == "linux/amd64"] or entries
    if not fitting or (len(fitting) > 1 and _platform(fitting[0]) != "linux/amd64"):
        found = ", ".join(_platform(one) for one in entries) or "nothing"
        raise _unreadable(image, f"it has nothing for linux/amd64 (found: {found})")
    return _blob(fitting[0], image)


def read_layers(content: bytes, *, image: str) -> tuple[Blob, ...]:
    """The layers of an image manifest, OCI's or docker's, lowest first."""
    document = _parse(content, image)
    if "layers" not in document:
        raise _unreadable(
            image, "its manifest lists no layers (an index, or docker's first format)"
        )
    return tuple(_layer(entry, image) for entry in _objects(document, "layers", image))


def read_annotations(content: bytes, *, image: str) -> Mapping[str, str]:
    """The annotations of a manifest, of which others may have written anything."""
    found = _parse(content, image).get("annotations")
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _parse(content: bytes, image: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _unreadable(image, "its manifest is no JSON object")
    return document


def _objects(document: dict[str, Any], key: str, image: str) -> list[dict[str, Any]]:
    found = document[key]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _unreadable(image, f'the "{key}" of its manifest are no list of objects')
    if len(found) > ENTRIES_MAX:
        raise _unreadable(image, f"its manifest lists {len(found)} {key}, over {ENTRIES_MAX}")
    return found


def _layer(entry: dict[str, Any], image: str) -> Blob:
    blob, kind = _blob(entry, image), str(entry.get("mediaType", ""))
    notes = entry.get("annotations")
    title = notes.get(TITLE) if isinstance(notes, dict) else None
    if kind in _ARCHIVE_TYPES or ".tar" in kind:
        return blob
    if not isinstance(title, str) or not title:
        raise _unreadable(image, f"it has a layer of the type {kind!r:.100}, which is no archive")
    return replace(blob, file_name=title)


def _blob(entry: dict[str, Any], image: str) -> Blob:
    """Checked, because a digest becomes part of a path."""
    digest, size_bytes = entry.get("digest"), entry.get("size")
    if not isinstance(digest, str) or not is_digest(digest):
        raise _unreadable(image, f"its manifest has a blob with the digest {digest!r:.100}")
    if not isinstance(size_bytes, int) or size_bytes < 0:
        raise _unreadable(image, f"its manifest has a blob with the size {size_bytes!r:.100}")
    return Blob(digest, size_bytes)


def _platform(entry: dict[str, Any]) -> str:
    platform = entry.get("platform")
    if not isinstance(platform, dict):
        return "any platform"
    return f"{platform.get('os', '')}/{platform.get('architecture', '')}"


def _unreadable(image: str, found: str) -> ImageUnreadable:
    return ImageUnreadable(
        f"the image {image} cannot be read",
        f"{found}",
        "push it as an OCI image for linux/amd64",
    )
