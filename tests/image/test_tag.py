"""A tag that has named another adapter since names the one that it is asked for again."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import ImageUnreadable
from tasks.contract.programs.image import TagConfig
from tasks.image.pod.push import push_image
from tasks.image.pod.tag import tag_image
from tests.cluster.registry import RunningRegistry
from tests.image.builders import PATIENCE_S, push_config, read_index, write_adapter
from tests.image.test_push import served_digest

# The tools may have to be built first, once, which is not the test's time.
pytestmark = [pytest.mark.registry, pytest.mark.timeout(60, func_only=True)]

NOWHERE = "nowhere.invalid/phi:v1"


def publish_two(folder: Path, reference: str, **fields: Any) -> tuple[str, str]:
    """The digests of two adapters that were published under one tag, one after the other."""
    fields["layout_dir"] = folder / "layout"
    first, second = (
        push_image(push_config(write_adapter(folder / f"{seed}", seed=seed), reference, **fields))
        for seed in (1, 2)
    )
    return first.digest, second.digest


def config(reference: str, digest: str, layout_dir: Path, *, push: bool) -> TagConfig:
    return TagConfig(
        reference=reference,
        digest=digest,
        layout_dir=layout_dir,
        push=push,
        patience_s=PATIENCE_S,
    )


def test_a_registry_s_tag_names_the_older_image_again(
    registry: RunningRegistry, tmp_path: Path, name: str
) -> None:
    reference = f"{registry.host}/{name}:v1"
    older, newer = publish_two(tmp_path, reference)
    assert served_digest(registry.url, name) == newer
    asked = config(reference, older, tmp_path / "empty", push=True)  # as in a pod
    assert [tag_image(asked).changed for _ in range(2)] == [True, False]
    assert served_digest(registry.url, name) == older


def test_a_layout_s_tag_names_the_older_image_again(tmp_path: Path) -> None:
    older, newer = publish_two(tmp_path, NOWHERE, push=False)
    layout = tmp_path / "layout"
    assert read_index(layout) == {NOWHERE: newer}
    asked = config(NOWHERE, older, layout, push=False)
    assert [tag_image(asked).changed for _ in range(2)] == [True, False]
    assert read_index(layout) == {NOWHERE: older}


@pytest.mark.parametrize("push", [True, False])
def test_an_image_that_is_gone_is_told_with_what_makes_it_anew(
    registry: RunningRegistry, tmp_path: Path, name: str, push: bool
) -> None:
    reference = f"{registry.host}/{name}:v1"
    publish_two(tmp_path, reference)
    with pytest.raises(ImageUnreadable, match="has it no more; edit what the adapter"):
        tag_image(config(reference, "sha256:" + "0" * 64, tmp_path / "layout", push=push))
