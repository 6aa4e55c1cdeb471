"""What the image programs are told, and what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """One adapter to publish.

    adapter_dir: adapter_config.json, adapter_model.safetensors and what lies beside them.
    reference: the full image name, `registry/repository:tag`.
    layout_dir: the OCI image layout on disk that always gets the image.
    push: also send it to the registry in `reference`.
    docker_config: a docker config.json with the credentials; None = anonymous. It is read anew
        before every try.
    insecure: registries reached by plain http (loopback ones always are).
    storage_hosts: inside a private network, to which the registry may send us on; `*` = all.
    annotations: go on the manifest beside the ones every image has, and win over them. They are
        part of the manifest's digest: same weights and same annotations give the same digest.
    patience_s: how long a registry that is down, or breaks uploads, is tried again.
    denied_patience_s: the same for one that refuses the credentials; 0 = refused at once.
    candidate_of: the run that has begun the candidate, as its image's annotation says: an image
        of that tag is written over only if it says the same; "" = whatever is there.
    checkpoint: an image name that is not needed any more once the image is there; "" = none.
    """

    adapter_dir: Path
    reference: str
    layout_dir: Path
    push: bool = False
    docker_config: Path | None = None
    insecure: tuple[str, ...] = ()
    storage_hosts: tuple[str, ...] = ()
    model_name: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 120.0
    denied_patience_s: float = 0.0
    candidate_of: str = ""
    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What was published.

    reference: in full. bytes: the image's size. pushed: the registry holds it; False = in the
    layout only. uploaded_bytes: what this run had to send.
    """

    reference: str
    digest: str
    layer_digest: str
    bytes: int
    pushed: bool
    uploaded_bytes: int
    annotations: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TagConfig:
    """One image that was published, and that its tag is to name again.

    reference: the full image name, `registry/repository:tag`. digest: of the image.
    push: also have the registry's tag name it; the others: as in PushConfig.
    """

    reference: str
    digest: str
    layout_dir: Path
    push: bool = False
    docker_config: Path | None = None
    insecure: tuple[str, ...] = ()
    storage_hosts: tuple[str, ...] = ()
    patience_s: float = 120.0
    denied_patience_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TagResult:
    """What a tag names now. changed: False = it did so before."""

    reference: str
    digest: str
    changed: bool


@dataclass(frozen=True, kw_only=True)
class PullConfig:
    """One image whose /data is wanted as files in target_dir (an adapter, a dataset).

    layout_dir: looked into first; an image that is there is not asked for elsewhere.
    docker_configs: tried in order after an anonymous try was refused.
    insecure, storage_hosts: as for a push.
    patience_s: how long a registry that is down, or breaks downloads, is tried again.
    """

    reference: str
    target_dir: Path
    layout_dir: Path | None = None
    docker_configs: tuple[Path, ...] = ()
    insecure: tuple[str, ...] = ()
    storage_hosts: tuple[str, ...] = ()
    patience_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class PullResult:
    """What a folder holds now.

    reference: in full. bytes: the layers' size. changed: False = it was there.
    """

    reference: str
    digest: str
    bytes: int
    source: Literal["layout", "registry"]
    changed: bool


@dataclass(frozen=True, kw_only=True)
class PullsConfig:
    """Images whose files are wanted, each in a folder of its own."""

    images: tuple[PullConfig, ...]


@dataclass(frozen=True, kw_only=True)
class PullsResult:
    """How many images have their folder now; bytes: their layers' size."""

    images: int
    bytes: int
