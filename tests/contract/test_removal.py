"""Whatever a stranger put into a folder, it can be removed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.contract.removal import remove_tree


def nested(folder: Path, depth: int) -> Path:
    folder.mkdir()
    for _ in range(depth):
        folder /= "d"
        folder.mkdir()
    return folder


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that pytest could not remove either, if what is tested did not."""
    folder = tmp_path / "deep"
    (nested(folder, 1500) / "file").write_text("x")
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def test_a_folder_nested_deeper_than_python_recurses_is_removed(deep: Path) -> None:
    remove_tree(deep)
    assert not deep.exists()


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("folder", "link", "absent"):
        remove_tree(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (tmp_path / "kept" / "file").exists()
