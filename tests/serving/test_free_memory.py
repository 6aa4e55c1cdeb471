"""Memory that may still be taken is what a container's limit leaves, not only what is free."""

from pathlib import Path

import psutil
import pytest

from serving.model.free_memory import free_memory_bytes

MIB = 2**20


def limited(folder: Path, limit: str) -> Path:
    """A control group that uses 300 MiB, 100 of them for files that were read."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{300 * MIB}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {100 * MIB}\nactive_file 2\n")
    return folder


def test_a_limit_leaves_what_is_not_used_and_what_can_be_given_back(tmp_path: Path) -> None:
    assert free_memory_bytes(limited(tmp_path, str(500 * MIB))) == 300 * MIB


def test_nothing_is_left_beyond_the_limit(tmp_path: Path) -> None:
    assert free_memory_bytes(limited(tmp_path, str(100 * MIB))) == 0


@pytest.mark.parametrize("limit", ["max", str(2**60), None])
def test_without_a_limit_the_machine_decides(
    tmp_path: Path, limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit:
        limited(tmp_path, limit)
    there = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    assert free_memory_bytes(tmp_path) == there.available
