"""The store keeps objects as an API server would: by name, in generations, whole or not at all."""

import stat
from pathlib import Path

import pytest

from tasks.contract.status import State, WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace
from tasks.platform.store import Store, write_atomically
from tests.builders import tuning_workspace


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


def test_secrets_are_readable_by_their_owner_only(store: Store, tmp_path: Path) -> None:
    apply(store, tuning_workspace(), secrets={"push": {"kind": "Secret"}})
    (path,) = tmp_path.rglob("push.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


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
