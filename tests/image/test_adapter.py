import json
import os
from pathlib import Path

import pytest

from tasks.contract.errors import AdapterInvalid
from tasks.image.pod.adapter import adapter_files


def test_every_regular_file_is_published_but_no_hidden_one_and_no_folder(adapter: Path) -> None:
    (adapter / ".cache").write_text("x")
    (adapter / "checkpoint-1").mkdir()
    (adapter / "checkpoint-1" / "optimizer.pt").write_text("x")
    names = [path.name for path in adapter_files(adapter)]
    assert names == ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_without_one_of_its_two_files_is_refused(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(AdapterInvalid, match=rf"needs {name};.* has none \(found: .*save"):
        adapter_files(adapter)


def test_a_missing_folder_is_told_from_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid, match="no such folder; check that the training finished"):
        adapter_files(tmp_path / "absent")
    with pytest.raises(AdapterInvalid, match=r"\(found: nothing\)"):
        adapter_files(tmp_path)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "model.PKL", "a.pth"])
def test_pickles_are_refused(adapter: Path, name: str) -> None:
    (adapter / name).write_bytes(b"")
    with pytest.raises(AdapterInvalid, match=f"{name} is a pickle.*remove this file"):
        adapter_files(adapter)


def test_links_and_pipes_are_refused(adapter: Path) -> None:
    (adapter / "link").symlink_to("/etc/passwd")
    with pytest.raises(AdapterInvalid, match="link should be a regular file; it is a symbolic"):
        adapter_files(adapter)
    (adapter / "link").unlink()
    os.mkfifo(adapter / "pipe")
    with pytest.raises(AdapterInvalid, match="pipe should be a regular file; it is a pipe"):
        adapter_files(adapter)


def test_a_link_to_the_weights_is_no_weights_file(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter.parent / "elsewhere")
    weights.symlink_to(adapter.parent / "elsewhere")
    with pytest.raises(AdapterInvalid, match="symbolic link; put the file there"):
        adapter_files(adapter)


def test_weights_cut_short_are_refused(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, size - 1)
    with pytest.raises(AdapterInvalid, match=f"have {size} bytes by its header; it has {size - 1}"):
        adapter_files(adapter)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 16, b"\x02" + b"\0" * 7 + b"[]"])
def test_weights_that_are_no_safetensors_are_refused(adapter: Path, content: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(AdapterInvalid, match="safetensors format; its header is unreadable"):
        adapter_files(adapter)


@pytest.mark.parametrize("content", ["{", json.dumps([1])])
def test_a_config_that_is_no_json_object_is_refused(adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(AdapterInvalid, match=r"adapter_config\.json should .*; save it anew"):
        adapter_files(adapter)
