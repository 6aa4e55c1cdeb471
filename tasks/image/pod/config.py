"""What the image programs are told; the caller builds it, the program owns it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """One adapter to publish.

    adapter_dir: adapter_config.json, adapter_model.safetensors and what lies beside them.
    reference: the full image name, `registry/repository:tag`.
    layout_dir: the OCI image layout on disk that always gets the image.
    push: also send it to the registry in `reference`.
    docker_config: a docker config.json with the credentials; None = anonymous.
    insecure: registries reached by plain http (loopback ones always are).
    annotations: go on the manifest beside the ones every image has.
    """

    adapter_dir: Path
    reference: str
    layout_dir: Path
    push: bool = False
    docker_config: Path | None = None
    insecure: tuple[str, ...] = ()
    model_name: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PullConfig:
    """One image whose /data is wanted as files in target_dir (an adapter, a dataset)."""

    reference: str
    target_dir: Path
    layout_dir: Path | None = None
    docker_configs: tuple[Path, ...] = ()
    insecure: tuple[str, ...] = ()
