"""Run as `python -m tasks.image.pod.pull CONFIG.json`: have an image's /data as files (PullConfig).

From the layout on disk where the image is there, else from its registry.
"""

import logging
import sys
from pathlib import Path
from typing import Literal, Protocol

from tasks.contract.errors import ImageReferenceInvalid, ImageUnreadable, RegistryDenied
from tasks.contract.image_reference import Reference, parse_reference
from tasks.contract.podlog import run_program
from tasks.contract.programs.image import PullConfig, PullResult
from tasks.image.pod.layout import Layout
from tasks.image.pod.target import install, read_marker, staged
from tasks.image.pod.unpack import Unpacker
from tasks.remote.manifest import Blob, digest_of, pick_manifest, read_layers
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository

_INDEXES_MAX = 4

logger = logging.getLogger(__name__)


class ImageSource(Protocol):
    """Where an image comes from: a Layout or a Repository."""

    def read_manifest(self, target: str) -> bytes:
        """The document under a digest (or, in a repository, a tag), checked."""

    def have_blob(self, digest: str, size_bytes: int, aside: Path) -> Path:
        """The blob as a file, checked; `aside` is where it may be put."""


def pull_image(config: PullConfig) -> PullResult:
    """What target_dir holds now; an image that is there already is left as it is."""
    reference = parse_reference(config.reference)
    layout = Layout(config.layout_dir) if config.layout_dir else None
    digest = layout.find(str(reference)) if layout else None
    if layout and digest:
        return _fill(config, reference, layout, target=digest, source_name="layout")
    return _from_registry(config, reference)


def _from_registry(config: PullConfig, reference: Reference) -> PullResult:
    """Ask anonymously first, then with each docker config, as a kubelet does."""
    refusal: RegistryDenied | ImageReferenceInvalid | None = None
    for docker_config in (None, *config.docker_configs):
        try:
            with _open(config, reference, docker_config) as repository:
                return _fill(
                    config, reference, repository, target=reference.target, source_name="registry"
                )
        except (RegistryDenied, ImageReferenceInvalid) as error:
            # Some registries say 404 where they mean 401.
            logger.info("registry refused docker_config=%s: %s", docker_config, error)
            refusal = error
    assert refusal is not None  # the loop ran at least once
    raise refusal


def _open(config: PullConfig, reference: Reference, docker_config: Path | None) -> Repository:
    return Repository(
        reference,
        "pull",
        docker_config=docker_config,
        insecure=config.insecure,
        storage_hosts=config.storage_hosts,
        patience=Patience(config.patience_s),
    )


def _fill(
    config: PullConfig,
    reference: Reference,
    source: ImageSource,
    *,
    target: str,
    source_name: Literal["layout", "registry"],
) -> PullResult:
    top = source.read_manifest(target)
    digest = digest_of(top)
    layers = read_layers(_image_manifest(top, source, image=str(reference)), image=str(reference))
    marker = read_marker(config.target_dir)
    changed = marker is None or marker.digest != digest
    if changed:
        with staged(config.target_dir) as staging:
            files = _unpack(reference, source, layers, staging)
            install(files, config.target_dir, reference=str(reference), digest=digest)
        logger.info("image unpacked reference=%s digest=%s", reference, digest)
    return PullResult(
        reference=str(reference),
        digest=digest,
        bytes=sum(layer.size_bytes for layer in layers),
        source=source_name,
        changed=changed,
    )


def _image_manifest(content: bytes, source: ImageSource, *, image: str) -> bytes:
    """The manifest of the image itself; an index may name another index, as builders nest them."""
    for _ in range(_INDEXES_MAX):
        chosen = pick_manifest(content, image=image)
        if chosen is None:
            return content
        content = source.read_manifest(chosen.digest)
        if len(content) != chosen.size_bytes:
            raise ImageUnreadable(
                f"the manifest {chosen.digest} of the image {image} was read",
                f"its index says {chosen.size_bytes} bytes and it has {len(content)}",
                "push the image again",
            )
    raise ImageUnreadable(
        f"the image {image} was looked for in its index",
        f"indexes are nested over {_INDEXES_MAX} deep",
        "push it as an OCI image for linux/amd64",
    )


def _unpack(
    reference: Reference, source: ImageSource, layers: tuple[Blob, ...], staging: Path
) -> Path:
    files, aside = staging / "files", staging / "layer"
    files.mkdir()
    unpacker = Unpacker(str(reference), files)
    for layer in layers:
        blob = source.have_blob(layer.digest, layer.size_bytes, aside)
        if layer.file_name:
            unpacker.add_file(blob, layer.file_name)
        else:
            unpacker.add_layer(blob)
        aside.unlink(missing_ok=True)
    unpacker.finish()
    return files


if __name__ == "__main__":
    sys.exit(run_program(PullConfig, pull_image, sys.argv))
