from pathlib import Path

import pytest

from tests.cluster.containerfile import running_builder


def test_no_layer_is_left_of_a_build_that_failed(tmp_path: Path) -> None:
    storage = tmp_path / "buildah"
    with pytest.raises(RuntimeError, match="no space"):
        fail_to_build(storage)
    assert not storage.exists()


def fail_to_build(storage: Path) -> None:
    with running_builder(storage):
        (storage / "root" / "overlay" / "layer").mkdir(parents=True)
        raise RuntimeError("no space left on device")


def test_layers_that_a_killed_build_left_are_removed_before_the_next(tmp_path: Path) -> None:
    left = tmp_path / "buildah" / "root" / "overlay" / "layer"
    left.mkdir(parents=True)
    with running_builder(tmp_path / "buildah"):
        assert not left.exists()
