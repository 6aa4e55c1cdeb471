"""Run as `python -m tasks.image.pod.tag CONFIG.json`: a tag names an image again (TagConfig)."""

import logging
import sys

from tasks.contract.errors import ImageUnreadable
from tasks.contract.image_reference import Reference, parse_push_reference
from tasks.contract.podlog import run_program
from tasks.contract.programs.image import TagConfig, TagResult
from tasks.image.pod.layout import Layout
from tasks.image.pod.push import expect_arrived, open_for_push

logger = logging.getLogger(__name__)


def tag_image(config: TagConfig) -> TagResult:
    """What the tag names now: the image, whatever was pushed under it since; twice is once."""
    reference = parse_push_reference(config.reference)
    changed = _in_layout(config, reference)
    if config.push:
        changed = _in_registry(config, reference) or changed
    logger.info("tag set reference=%s digest=%s changed=%s", reference, config.digest, changed)
    return TagResult(reference=str(reference), digest=config.digest, changed=changed)


def _in_layout(config: TagConfig, reference: Reference) -> bool:
    """Whether the layout's tag had to be moved; a pod's own layout holds nothing."""
    layout = Layout(config.layout_dir)
    if layout.find(f"{reference}@{config.digest}") is None:
        if config.push:
            return False
        raise _is_gone(reference, config.digest, where=str(config.layout_dir))
    if layout.find(str(reference)) == config.digest:
        return False
    with layout.writing():
        layout.tag(str(reference), layout.read_manifest(config.digest))
    return True


def _in_registry(config: TagConfig, reference: Reference) -> bool:
    """Whether the registry's tag had to be moved."""
    with open_for_push(config, reference) as repository:
        if repository.manifest_digest() == config.digest:
            return False
        if repository.manifest_digest(config.digest) is None:
            raise _is_gone(reference, config.digest, where=reference.registry)
        repository.put_manifest(repository.read_manifest(config.digest))
        expect_arrived(repository, reference, config.digest)
    return True


def _is_gone(reference: Reference, digest: str, *, where: str) -> ImageUnreadable:
    return ImageUnreadable(
        f"{reference} was to name the image {digest} again",
        f"{where} has it no more",
        "edit what the adapter is tuned from, such as its seed, to have it tuned anew",
    )


if __name__ == "__main__":
    sys.exit(run_program(TagConfig, tag_image, sys.argv))
