"""The OCI documents of an adapter image, as exact bytes. Pure.

Laid out as KAITO's own pusher does: one layer with data/adapter_config.json and
data/adapter_model.safetensors, and the model's name on the manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.contract.image_annotations import (
    BASE_NAME,
    CREATED,
    LORA_SHAPE,
    MODEL_NAME,
    NOT_IN_VLLM,
    REVISION,
    told_shape,
)
from tasks.contract.plain_lora import why_not_in_vllm
from tasks.contract.units import utc_text
from tasks.image.pod.layer import Layer
from tasks.remote.manifest import MANIFEST_TYPE, TITLE, descriptor, digest_of, encode

_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


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
        LORA_SHAPE: told_shape(adapter_config),
        NOT_IN_VLLM: why_not_in_vllm(adapter_config),
    }
    return {key: value for key, value in found.items() if value} | dict(wanted)


def _public_name(base_model: object) -> str:
    """The base model's name on the hub; a path of this machine is nobody else's business."""
    is_hub_name = isinstance(base_model, str) and base_model[:1] not in ("", "/", ".", "~")
    return str(base_model) if is_hub_name else ""


def _created(source_date_epoch: str | None) -> str:
    if not source_date_epoch:
        return ""
    return utc_text(datetime.fromtimestamp(int(source_date_epoch), tz=UTC))
