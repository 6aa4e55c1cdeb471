"""Objects of the local platform as files: Workspaces, their status, ConfigMaps, Secrets.

One folder a Workspace; every write replaces a file whole, so a reader never sees half of one.
"""

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.contract.removal import remove_tree
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace

_SECRET_MODE = 0o600


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file's content at once; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class StoredWorkspace:
    """A Workspace as applied, with what the store knows of it."""

    workspace: Workspace
    status: WorkspaceStatus
    created: datetime


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

    def apply(self, manifests: Manifests) -> Workspace:
        """Keep the objects; the Workspace with its uid and generation.

        Applying the same spec again changes nothing; a changed spec, or a changed ConfigMap it
        refers to, is a new generation.
        """
        namespace = manifests.workspace.metadata.namespace
        for name, data in manifests.config_maps.items():
            self._write_json(self._object(namespace, "configmaps", name), data)
        for name, secret in manifests.secrets.items():
            self._write_json(self._object(namespace, "secrets", name), secret, mode=_SECRET_MODE)
        return self._apply_workspace(manifests.workspace)

    def _apply_workspace(self, workspace: Workspace) -> Workspace:
        meta = workspace.metadata
        spec = self._spec(workspace)
        known = self._read_json(self._workspace_dir(meta.namespace, meta.name) / "workspace.json")
        if known and known["spec"] == spec:
            record = known
        else:
            record = {
                "uid": known["uid"] if known else str(uuid.uuid4()),
                "generation": known["generation"] + 1 if known else 1,
                "created": known["created"] if known else datetime.now(UTC).isoformat(),
                "spec": spec,
            }
            self._write_json(self.workspace_dir(workspace) / "workspace.json", record)
        return self._with_identity(workspace, record)

    def _spec(self, workspace: Workspace) -> dict[str, Any]:
        spec = workspace.model_dump(mode="json", by_alias=True)
        for field in ("uid", "generation"):
            spec["metadata"].pop(field)
        name = workspace.config_name
        spec["config"] = self.read_config_map(workspace.metadata.namespace, name) if name else None
        return spec

    @staticmethod
    def _with_identity(workspace: Workspace, record: dict[str, Any]) -> Workspace:
        identity = {"uid": record["uid"], "generation": record["generation"]}
        metadata = workspace.metadata.model_copy(update=identity)
        return workspace.model_copy(update={"metadata": metadata})

    def find(self, namespace: str, name: str) -> StoredWorkspace | None:
        """A Workspace by name; None when it was never applied."""
        record = self._read_json(self._workspace_dir(namespace, name) / "workspace.json")
        if not record:
            return None
        manifest = {key: value for key, value in record["spec"].items() if key != "config"}
        workspace = self._with_identity(Workspace.model_validate(manifest), record)
        created = datetime.fromisoformat(record["created"])
        return StoredWorkspace(workspace, self.read_status(workspace), created)

    def list(self, namespace: str | None = None) -> Iterator[StoredWorkspace]:
        """Every Workspace, by namespace and name."""
        for path in sorted(self.home.glob(f"namespaces/{namespace or '*'}/workspaces/*")):
            found = self.find(path.parent.parent.name, path.name)
            if found:
                yield found

    def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status as last written; an empty one when there is none."""
        stored = self._read_json(self.workspace_dir(workspace) / "status.json")
        return WorkspaceStatus.model_validate(stored) if stored else WorkspaceStatus()

    def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """Replace the status; a Workspace that was deleted meanwhile stays deleted."""
        folder = self.workspace_dir(workspace)
        if folder.exists():
            text = status.model_dump_json(by_alias=True, indent=1)
            write_atomically(folder / "status.json", text.encode())

    def read_config_map(self, namespace: str, name: str) -> dict[str, str] | None:
        """A ConfigMap's data; None when there is none."""
        data: dict[str, str] | None = self._read_json(self._object(namespace, "configmaps", name))
        return data

    def read_secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A Secret's manifest; None when there is none."""
        manifest: dict[str, Any] | None = self._read_json(self._object(namespace, "secrets", name))
        return manifest

    def delete(self, workspace: Workspace) -> None:
        """Forget a Workspace and its files; nothing happens when it is gone already."""
        folder = self.workspace_dir(workspace)
        if not folder.exists():
            return
        doomed = folder.with_name(f".deleted-{workspace.metadata.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(doomed)
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
    def _write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
        write_atomically(path, json.dumps(value, indent=1).encode(), mode=mode)

    @staticmethod
    def _read_json(path: Path) -> Any:
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
