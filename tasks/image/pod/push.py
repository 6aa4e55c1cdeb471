"""Publish an adapter: pack it, keep it in the layout on disk, send it to its registry."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.contract.errors import (
    KaitoflowError,
    RegistryDenied,
    RegistryUnavailable,
    TagTaken,
)
from tasks.contract.image_annotations import (
    BASE_COMMIT,
    BASE_FILES,
    CANDIDATE_OF,
    CONTINUED_FROM,
    CONTINUED_WEIGHTS,
    DATASET_DIGEST,
    HELD_OUT,
    VERSION,
)
from tasks.contract.image_reference import Reference, parse_push_reference
from tasks.contract.programs.image import PushConfig, PushResult, TagConfig
from tasks.image.pod.adapter import adapter_files, read_adapter_config
from tasks.image.pod.documents import Image, describe_image, image_annotations
from tasks.image.pod.layer import pack_layer
from tasks.image.pod.layout import Layout
from tasks.remote.manifest import digest_of, read_annotations
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository

logger = logging.getLogger(__name__)


def push_image(config: PushConfig) -> PushResult:
    """What was published; doing it again changes nothing.

    Raises: TagTaken: a candidate's tag names another one's image.
    """
    reference = parse_push_reference(config.reference)
    layout = Layout(config.layout_dir)
    image = _keep_image(config, reference, layout)
    try:
        uploaded_bytes = _send_image(config, reference, layout, image) if config.push else 0
    except RegistryDenied as error:
        raise _given_up(config, error) from error
    if config.push and config.checkpoint:
        _remove_checkpoint(config)
    return PushResult(
        reference=str(reference),
        digest=image.digest,
        layer_digest=image.layer.digest,
        bytes=image.size_bytes,
        pushed=config.push,
        uploaded_bytes=uploaded_bytes,
        annotations=dict(image.annotations),
    )


def open_for_push(config: PushConfig | TagConfig, reference: Reference) -> Repository:
    """The repository to push to, with the rights, and the patience, that the config gives."""
    return Repository(
        reference,
        "pull,push",
        docker_config=config.docker_config,
        insecure=config.insecure,
        storage_hosts=config.storage_hosts,
        patience=Patience(config.patience_s, config.denied_patience_s),
    )


def _given_up(config: PushConfig, error: RegistryDenied) -> RegistryDenied:
    """The refusal, with what another run has of the training where this pod's disk goes with it."""
    if not config.checkpoint:
        return error
    kept = f"then run it again: it goes on from {config.checkpoint}, if that was sent, else anew"
    return RegistryDenied(error.asked, error.found, f"{error.fix}; {kept}")


def _keep_image(config: PushConfig, reference: Reference, layout: Layout) -> Image:
    files = adapter_files(config.adapter_dir)
    annotations = image_annotations(
        read_adapter_config(config.adapter_dir),
        model_name=config.model_name,
        wanted=_origin_annotations(config.adapter_dir)
        | ({CANDIDATE_OF: config.candidate_of} if config.candidate_of else {})
        | dict(config.annotations),
        source_date_epoch=os.environ.get("SOURCE_DATE_EPOCH"),
    )
    with layout.writing() as incoming:
        packed = incoming / "layer"
        layer = pack_layer(files, packed)
        image = describe_image(layer, annotations)
        layout.add_file(packed, layer.digest)
        layout.add_bytes(image.config)
        layout.tag(str(reference), image.manifest)
    logger.info("image kept reference=%s digest=%s", reference, image.digest)
    return image


def _origin_annotations(adapter_dir: Path) -> dict[str, str]:
    """What the adapter was made from, where the trainer has told it in its metrics."""
    try:
        metrics = json.loads((adapter_dir / "metrics.json").read_bytes())
        told = {DATASET_DIGEST: str(metrics["dataset_digest"])}
        if start := metrics.get("continued_from"):
            told |= {CONTINUED_FROM: str(start["name"]), CONTINUED_WEIGHTS: str(start["weights"])}
        told |= {
            BASE_COMMIT: metrics.get("base_commit") or "",
            BASE_FILES: metrics.get("base_files") or "",
            VERSION: metrics.get("versions", {}).get("kaitoflow", ""),
            HELD_OUT: _told_held_out(metrics.get("held_out")),
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {name: text for name, text in told.items() if text}


def _told_held_out(held_out: Mapping[str, Any] | None) -> str:
    if held_out is None:
        return ""
    return json.dumps({name: held_out[name] for name in ("rows", "loss_before", "loss_after")})


def _send_image(config: PushConfig, reference: Reference, layout: Layout, image: Image) -> int:
    """The bytes that had to be sent; 0 = the registry had it all."""
    with open_for_push(config, reference) as repository:
        there = repository.manifest_digest()
        if there == image.digest:
            logger.info("image is there already reference=%s digest=%s", reference, image.digest)
            return 0
        if there and config.candidate_of:
            _expect_same_candidate(repository, reference, there, config.candidate_of)
        sent_bytes = len(image.manifest)
        config_digest = digest_of(image.config)
        blobs = {"push": image.layer.digest, "push config": config_digest}
        for phase, digest in blobs.items():
            path = layout.blob_path(digest)
            if repository.upload(path, digest, phase=phase):
                sent_bytes += path.stat().st_size
        repository.put_manifest(image.manifest)
        expect_arrived(repository, reference, image.digest)
    logger.info("image pushed reference=%s digest=%s", reference, image.digest)
    return sent_bytes


def _expect_same_candidate(
    repository: Repository, reference: Reference, there: str, candidate_of: str
) -> None:
    """Leave alone what another candidate was pushed as: it may serve, or be needed to go back to.

    Raises: TagTaken.
    """
    manifest = repository.read_manifest(there)
    if read_annotations(manifest, image=str(reference)).get(CANDIDATE_OF) != candidate_of:
        raise TagTaken(
            f"a candidate was to be pushed as {reference}",
            f"that tag names {there}, which another run has made",
            "retune once more, which takes the next number; or have tuning.output.image name a tag "
            "of its own",
        )


def _remove_checkpoint(config: PushConfig) -> None:
    """Leave no checkpoint beside the image, where the registry lets us: not all do, nor to all."""
    reference = parse_push_reference(config.checkpoint)
    try:
        with open_for_push(replace(config, patience_s=0, denied_patience_s=0), reference) as there:
            if digest := there.manifest_digest():
                there.remove_manifest(digest)
    except KaitoflowError as error:
        logger.info("checkpoint stays reference=%s: %s", reference, error)


def expect_arrived(repository: Repository, reference: Reference, digest: str) -> None:
    """Read the image back, so that the digest that is told is the one that others will get.

    Raises: RegistryUnavailable: the tag names another one.
    """
    found = digest_of(repository.read_manifest(reference.tag))
    if found != digest:
        raise RegistryUnavailable(
            f"{reference} was pushed as {digest}",
            f"the registry serves {found}",
            "see who else pushes to this tag, then push again",
        )
