"""The store keeps objects as an API server would: by name, in generations, whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from tasks.contract.errors import StateUnreadable
from tasks.contract.status import State, WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.platform.store import Store, keep_private, write_atomically
from tests.builders import tuning_manifest, tuning_workspace


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def apply(store: Store, workspace: Workspace, **objects: object) -> Workspace:
    return store.apply(Manifests.model_validate({"workspace": workspace, **objects}))


def test_a_workspace_is_found_again_as_applied(store: Store) -> None:
    applied = apply(store, tuning_workspace())
    found = store.find("default", "tuned")
    assert found is not None
    assert found.workspace == applied


def test_applying_the_same_again_keeps_uid_and_generation(store: Store) -> None:
    first, second = (apply(store, tuning_workspace()) for _ in range(2))
    assert first.metadata == second.metadata


def test_a_changed_spec_is_a_new_generation_of_the_same_object(store: Store) -> None:
    first = apply(store, tuning_workspace())
    second = apply(store, tuning_workspace(method="lora"))
    assert second.metadata.generation == first.metadata.generation + 1
    assert second.metadata.uid == first.metadata.uid


def test_a_changed_config_map_is_a_new_generation(store: Store) -> None:
    workspace = tuning_workspace(config="settings")
    first = apply(store, workspace, config_maps={"settings": {"a": "1"}})
    second = apply(store, workspace, config_maps={"settings": {"a": "2"}})
    assert second.metadata.generation == first.metadata.generation + 1


def test_what_is_kept_is_readable_by_its_owner_only(store: Store, tmp_path: Path) -> None:
    given = tuning_workspace(config="settings")
    workspace = apply(
        store, given, secrets={"push": {"kind": "Secret"}}, config_maps={"settings": {"a": "1"}}
    )
    store.write_status(workspace, WorkspaceStatus())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_home_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    keep_private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    keep_private(tmp_path / "none")


DAMAGES = {
    "empty": b"",
    "truncated": b'{"uid": "x", "generation": 1, "spe',
    "no JSON": b"\x00" * 300,
    "another type": b"[1, 2]",
    "a field of another type": b'{"state": [], "uid": 7}',
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", ["workspace.json", "status.json"])
def test_a_damaged_file_is_named_and_its_workspace_can_be_deleted(
    store: Store, tmp_path: Path, name: str, content: bytes
) -> None:
    apply(store, tuning_workspace("whole"))
    damaged = store.workspace_dir(apply(store, tuning_workspace()))
    (damaged / name).write_bytes(content)
    found = list(store.list())
    assert [stored.workspace.metadata.name for stored in found] == ["tuned", "whole"]
    assert f"{damaged / name} was to be read; it is damaged" in found[0].damage
    assert found[0].status.reason == "StateUnreadable"
    assert found[1].damage == ""
    store.delete(found[0].workspace)
    assert [stored.workspace.metadata.name for stored in store.list()] == ["whole"]


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_run_does_not_begin_on_damaged_files(
    store: Store, tmp_path: Path, content: bytes
) -> None:
    workspace = apply(store, tuning_workspace(), config_maps={"settings": {"a": "1"}})
    for path in tmp_path.rglob("*.json"):
        path.write_bytes(content)
    with pytest.raises(StateUnreadable, match=r"workspace.json.*kaitoflow delete tuned"):
        apply(store, workspace)
    with pytest.raises(StateUnreadable, match=r"settings.json.*run the Workspace's file again"):
        store.read_config_map("default", "settings")


def test_a_damaged_workspace_is_still_of_its_last_generation(store: Store) -> None:
    folder = store.workspace_dir(apply(store, tuning_workspace()))
    for number in (1, 12, 9):
        (folder / f"generation-{number}" / "logs").mkdir(parents=True)
    (folder / "workspace.json").write_bytes(b"")
    found = store.find("default", "tuned")
    assert found is not None
    assert found.workspace.metadata.generation == 12


def test_what_a_deletion_left_is_no_workspace_and_goes_with_the_next(
    store: Store, tmp_path: Path
) -> None:
    folder = store.workspace_dir(apply(store, tuning_workspace()))
    folder.rename(folder.with_name(".deleted-tuned-1"))
    assert list(store.list()) == []
    store.delete(apply(store, tuning_workspace()))
    assert list(folder.parent.iterdir()) == []


def test_a_write_reaches_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    seen = []
    synced = os.fsync

    def noting(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        seen.append((kind, path.exists()))
        synced(handle)

    monkeypatch.setattr(os, "fsync", noting)
    write_atomically(path, b"new")
    assert seen == [("file", False), ("folder", True)]


def test_the_status_of_a_deleted_workspace_is_not_brought_back(store: Store) -> None:
    workspace = apply(store, tuning_workspace())
    store.delete(workspace)
    store.write_status(workspace, WorkspaceStatus(state=State.READY))
    assert store.find("default", "tuned") is None
    assert list(store.list()) == []


def test_deleting_leaves_no_file(store: Store, tmp_path: Path) -> None:
    store.delete(apply(store, tuning_workspace()))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_first_generation_that_is_refused_leaves_no_workspace(store: Store) -> None:
    store.forget_refused(apply(store, tuning_workspace()))
    assert store.find("default", "tuned") is None


def test_a_later_generation_that_is_refused_leaves_the_workspace(store: Store) -> None:
    apply(store, tuning_workspace())
    store.forget_refused(apply(store, tuning_workspace(method="lora")))
    assert store.find("default", "tuned") is not None


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def annotated(**annotations: str) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = annotations
    return parse_workspace(manifest, source="test")


def test_an_edit_about_retuning_alone_is_kept_and_no_new_generation(store: Store) -> None:
    first = apply(store, tuning_workspace())
    apply(store, annotated(**{"kaitoflow.io/retune-schedule": "6h"}))
    found = store.find("default", "tuned")
    assert found
    assert found.workspace.metadata.generation == first.metadata.generation
    assert found.workspace.metadata.annotations == {"kaitoflow.io/retune-schedule": "6h"}


def test_an_edit_of_another_annotation_is_a_new_generation(store: Store) -> None:
    first = apply(store, tuning_workspace())
    second = apply(store, annotated(**{"kaito.sh/serve": "false"}))
    assert second.metadata.generation == first.metadata.generation + 1
