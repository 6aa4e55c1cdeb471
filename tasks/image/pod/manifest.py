"""The OCI documents of an adapter image, as exact bytes. Pure.

Laid out as KAITO's own pusher does: one layer with data/adapter_config.json and
data/adapter_model.safetensors, and the model's name on the manifest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tasks.errors import ImageUnreadable
from tasks.image.pod.layer import Layer
from tasks.image.pod.reference import is_digest

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"

MODEL_NAME = "sh.kaito.model.name"
CREATED = "org.opencontainers.image.created"
TITLE = "org.opencontainers.image.title"
BASE_NAME = "org.opencontainers.image.base.name"
REVISION = "org.opencontainers.image.revision"

_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_ARCHIVE_TYPES = {"", "application/x-tar", "application/gzip", "application/zstd"}
ENTRIES_MAX = 512  # builders stop at 127 layers
_NOWHERE = "unknown/unknown"  # the platform of attestations, which builders put beside images


@dataclass(frozen=True)
class Image:
    """A packed image: its documents, and the layer they name."""

    manifest: bytes
    config: bytes
    layer: Layer
    annotations: Mapping[str, str]

    @property
    def digest(self) -> str:
        """What the image is known by: the digest of its manifest."""
        return digest_of(self.manifest)

    @property
    def size_bytes(self) -> int:
        """All that a registry has to store."""
        return len(self.manifest) + len(self.config) + self.layer.size_bytes


def digest_of(content: bytes) -> str:
    """The content's OCI digest, `sha256:HEX`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def describe_image(layer: Layer, annotations: Mapping[str, str]) -> Image:
    """The image of one layer; the same layer and annotations give the same bytes."""
    config = image_config(layer.diff_id)
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(_CONFIG_TYPE, digest_of(config), len(config)),
            "layers": [descriptor(_LAYER_TYPE, layer.digest, layer.size_bytes)],
            "annotations": dict(annotations),
        }
    )
    return Image(manifest, config, layer, annotations)


def image_config(diff_id: str) -> bytes:
    """The image's configuration.

    An adapter runs nowhere, but containerd takes no image without a platform, so the one of the
    machines with GPUs is named.
    """
    return encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
    )


def image_annotations(
    adapter_config: Mapping[str, Any],
    *,
    model_name: str,
    wanted: Mapping[str, str],
    source_date_epoch: str | None,
) -> dict[str, str]:
    """The manifest's annotations; those wanted by the caller win over those found out here.

    The time of creation is told only where SOURCE_DATE_EPOCH fixes it: the time of day would give
    the same weights another digest at each push.
    """
    found = {
        MODEL_NAME: model_name,
        TITLE: f"LoRA adapter for {model_name}" if model_name else "LoRA adapter",
        BASE_NAME: _public_name(adapter_config.get("base_model_name_or_path")),
        REVISION: str(adapter_config.get("revision") or ""),
        CREATED: _created(source_date_epoch),
    }
    return {key: value for key, value in found.items() if value} | dict(wanted)


def descriptor(media_type: str, digest: str, size_bytes: int) -> dict[str, Any]:
    """How OCI documents point at a blob."""
    return {"mediaType": media_type, "digest": digest, "size": size_bytes}


def encode(document: Mapping[str, Any]) -> bytes:
    """JSON with one spelling for one content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _public_name(base_model: object) -> str:
    """The base model's name on the hub; a path of this machine is nobody else's business."""
    is_hub_name = isinstance(base_model, str) and base_model[:1] not in ("", "/", ".", "~")
    return str(base_model) if is_hub_name else ""


def _created(source_date_epoch: str | None) -> str:
    if not source_date_epoch:
        return ""
    moment = datetime.fromtimestamp(int(source_date_epoch), tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


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
        f"the image {image} cannot be read: {found}; push it as an OCI image for linux/amd64"
    )
