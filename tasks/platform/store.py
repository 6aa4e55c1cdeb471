"""Objects of the local platform as files: Workspaces, their status, ConfigMaps, Secrets.

One folder a Workspace; every write replaces a file whole, so a reader never sees half of one. Only
their owner may read them: addresses of datasets carry passwords, and the rows are nobody else's.
"""

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from tasks.contract.errors import StateUnreadable
from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.removal import remove_tree
from tasks.contract.status import ConditionType, WorkspaceStatus
from tasks.contract.words import acts_on_retuning
from tasks.contract.workspace import Manifests, ObjectMeta, Workspace

_DELETED = ".deleted-"
_EVENTS_MAX = 500

T = TypeVar("T")
_CONFIG_MAP = TypeAdapter(dict[str, str])
_SECRET = TypeAdapter(dict[str, Any])


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content at once, also when power fails; only its owner may read it.

    Its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            # Before the new name: else a file of no bytes may have it after a power cut.
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def keep_private(home: Path) -> None:
    """Let nobody else into a home that an earlier version made for all to read."""
    if home.is_dir() and home.stat().st_uid == os.getuid() and home.stat().st_mode & 0o077:
        home.chmod(0o700)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class StoredWorkspace:
    """A Workspace as applied, with what the store knows of it."""

    workspace: Workspace
    status: WorkspaceStatus
    created: datetime
    damage: str = ""
    """Which of its files cannot be read, why, and what to do; empty when all can."""


class _Record(BaseModel):
    """A Workspace as it lies in workspace.json."""

    uid: str
    generation: int
    created: datetime
    spec: dict[str, Any]

    @classmethod
    def whole(cls, data: bytes) -> tuple[Self, Workspace]:
        """The record in a file, and its Workspace with uid and generation."""
        record = cls.model_validate_json(data)
        manifest = {key: value for key, value in record.spec.items() if key != "config"}
        return record, record.identify(Workspace.model_validate(manifest))

    def identify(self, workspace: Workspace) -> Workspace:
        """The same Workspace with this uid and generation."""
        identity = {"uid": self.uid, "generation": self.generation}
        metadata = workspace.metadata.model_copy(update=identity)
        return workspace.model_copy(update={"metadata": metadata})


class Store:
    """The objects under one home folder."""

    def __init__(self, home: Path) -> None:
        """Keep everything in `home`, which is made when first written to."""
        self.home = home

    def workspace_dir(self, workspace: Workspace) -> Path:
        """Everything that belongs to one Workspace."""
        return self._workspace_dir(workspace.metadata.namespace, workspace.metadata.name)

    def generation_dir(self, workspace: Workspace) -> Path:
        """Files of the Workspace's current generation."""
        return self.workspace_dir(workspace) / f"generation-{workspace.metadata.generation}"

    def pod_dir(self, workspace: Workspace, candidate: int | None) -> Path:
        """Files of its pods: of a candidate's of that number, else of the current generation's."""
        if candidate is None:
            return self.generation_dir(workspace)
        return self.workspace_dir(workspace) / f"candidate-{candidate}"

    def apply(self, manifests: Manifests) -> Workspace:
        """Keep the objects; the Workspace with its uid and generation.

        Applying the same spec again changes nothing; a changed spec, or a changed ConfigMap it
        refers to, is a new generation, unless only annotations about retuning are others.
        """
        namespace = manifests.workspace.metadata.namespace
        for name, data in manifests.config_maps.items():
            self._write_json(self._object(namespace, "configmaps", name), data)
        for name, secret in manifests.secrets.items():
            self._write_json(self._object(namespace, "secrets", name), secret)
        return self._apply_workspace(manifests.workspace)

    def _apply_workspace(self, workspace: Workspace) -> Workspace:
        spec = self._spec(workspace)
        folder = self.workspace_dir(workspace)
        known = self._record(folder)
        if known and known.spec == spec:
            return known.identify(workspace)
        is_same = known is not None and _without_retuning(known.spec) == _without_retuning(spec)
        record = _Record(
            uid=known.uid if known else str(uuid.uuid4()),
            generation=known.generation + (not is_same) if known else 1,
            created=known.created if known else datetime.now(UTC),
            spec=spec,
        )
        write_atomically(folder / "workspace.json", record.model_dump_json(indent=1).encode())
        return record.identify(workspace)

    def _spec(self, workspace: Workspace) -> dict[str, Any]:
        spec = workspace.model_dump(mode="json", by_alias=True)
        for field in ("uid", "generation"):
            spec["metadata"].pop(field)
        name = workspace.config_name
        spec["config"] = self.read_config_map(workspace.metadata.namespace, name) if name else None
        return spec

    def read(self, workspace: Workspace) -> Workspace | None:
        """The Workspace of this name as it was applied last; None when it is gone.

        Raises: StateUnreadable: its file is damaged.
        """
        path = self.workspace_dir(workspace) / "workspace.json"
        known = _read(path, _Record.whole, fix=_forget(workspace.metadata.name))
        return known[1] if known else None

    def find(self, namespace: str, name: str) -> StoredWorkspace | None:
        """A Workspace by name; None when it was never applied.

        One whose files are damaged is found, too, so that it can be seen, stopped and deleted; its
        status says which file it is.
        """
        folder = self._workspace_dir(namespace, name)
        try:
            known = _read(folder / "workspace.json", _Record.whole, fix=_forget(name))
        except StateUnreadable as error:
            return _damaged(_stand_in(folder), error, created=_changed(folder))
        if not known:
            return None
        record, workspace = known
        try:
            status = self.read_status(workspace)
        except StateUnreadable as error:
            return _damaged(workspace, error, created=record.created)
        return StoredWorkspace(workspace, status, record.created)

    def list(self, namespace: str | None = None) -> Iterator[StoredWorkspace]:
        """Every Workspace, by namespace and name, also those whose files are damaged."""
        for path in sorted(self.home.glob(f"namespaces/{namespace or '*'}/workspaces/[!.]*")):
            found = self.find(path.parent.parent.name, path.name)
            if found:
                yield found

    def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status as last written; an empty one when there is none.

        Raises: StateUnreadable: it is damaged.
        """
        path = self.workspace_dir(workspace) / "status.json"
        return _read(path, WorkspaceStatus.model_validate_json) or WorkspaceStatus()

    def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """Replace the status; a Workspace that was deleted meanwhile stays deleted."""
        folder = self.workspace_dir(workspace)
        if folder.exists():
            text = status.model_dump_json(by_alias=True, indent=1)
            write_atomically(folder / "status.json", text.encode())

    def add_event(self, workspace: Workspace, event: RecordedEvent) -> None:
        """Keep what happened; of very many the latest."""
        file = self.workspace_dir(workspace) / "events.jsonl"
        if not file.parent.exists():
            return
        lines = file.read_text().splitlines() if file.exists() else []
        kept = [*lines[-_EVENTS_MAX + 1 :], event.model_dump_json()]
        write_atomically(file, "".join(f"{line}\n" for line in kept).encode())

    def read_events(self, workspace: Workspace) -> Sequence[RecordedEvent]:
        """What happened, oldest first.

        Raises: StateUnreadable: the file is damaged.
        """
        file = self.workspace_dir(workspace) / "events.jsonl"
        return _read(file, _events, fix="remove it: nothing else depends on it") or []

    def read_config_map(self, namespace: str, name: str) -> dict[str, str] | None:
        """A ConfigMap's data; None when there is none."""
        return _read(self._object(namespace, "configmaps", name), _CONFIG_MAP.validate_json)

    def read_secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A Secret's manifest; None when there is none."""
        return _read(self._object(namespace, "secrets", name), _SECRET.validate_json)

    def delete(self, workspace: Workspace) -> None:
        """Forget a Workspace and its files; nothing happens when it is gone already."""
        folder = self.workspace_dir(workspace)
        if not folder.exists():
            return
        folder.rename(
            folder.with_name(f"{_DELETED}{workspace.metadata.name}-{uuid.uuid4().hex[:8]}")
        )
        # Also what an earlier deletion could not remove, or was killed at.
        for doomed in folder.parent.glob(f"{_DELETED}*"):
            remove_tree(doomed)

    def forget_refused(self, workspace: Workspace) -> None:
        """Leave nothing of a generation that was refused; of the first one, nothing at all."""
        if workspace.metadata.generation == 1:
            self.delete(workspace)
        else:
            remove_tree(self.generation_dir(workspace))

    def _workspace_dir(self, namespace: str, name: str) -> Path:
        return self.home / "namespaces" / namespace / "workspaces" / name

    def _object(self, namespace: str, kind: str, name: str) -> Path:
        return self.home / "namespaces" / namespace / kind / f"{name}.json"

    @staticmethod
    def _record(folder: Path) -> _Record | None:
        file = folder / "workspace.json"
        return _read(file, _Record.model_validate_json, fix=_forget(folder.name))

    @staticmethod
    def _write_json(path: Path, value: Any) -> None:
        write_atomically(path, json.dumps(value, indent=1).encode())


def _events(data: bytes) -> list[RecordedEvent]:
    return [RecordedEvent.model_validate_json(line) for line in data.splitlines()]


def _without_retuning(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec decides how the Workspace is tuned and served now."""
    metadata = spec["metadata"]
    annotations = {
        name: value
        for name, value in metadata.get("annotations", {}).items()
        if not acts_on_retuning(name)
    }
    return {**spec, "metadata": {**metadata, "annotations": annotations}}


def _read(
    path: Path,
    parse: Callable[[bytes], T],
    *,
    fix: str = "remove it, and run the Workspace's file again",
) -> T | None:
    """What a file says; None when there is none.

    Raises: StateUnreadable.
    """
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, fix=fix) from None


def _unreadable(path: Path, error: Exception, *, fix: str) -> StateUnreadable:
    found = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        found = ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
    return StateUnreadable(f"{path} was to be read", f"it is damaged ({found})", fix)


def _forget(name: str) -> str:
    return f"forget the Workspace with its files: kaitoflow delete {name}"


def _stand_in(folder: Path) -> Workspace:
    """What is known of a Workspace without its file: its name, and that there were generations."""
    generations = [
        int(p.name.removeprefix("generation-")) for p in folder.glob("generation-[0-9]*")
    ]
    metadata = ObjectMeta.model_construct(
        name=folder.name,
        namespace=folder.parent.parent.name,
        generation=max(generations, default=1),
    )
    return Workspace.model_construct(metadata=metadata)


def _changed(folder: Path) -> datetime:
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC)


def _damaged(workspace: Workspace, error: StateUnreadable, *, created: datetime) -> StoredWorkspace:
    status = WorkspaceStatus()
    status.set_condition(
        ConditionType.WORKSPACE_SUCCEEDED,
        status="Unknown",
        reason=error.reason,
        message=str(error),
    )
    return StoredWorkspace(workspace, status, created, damage=f"{error.reason}: {error}")
